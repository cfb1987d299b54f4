// One row of cells: an activation passes from the left to the right.
module hwnas_row #(
    parameter COLUMNS = 8
) (
    input wire                     clk,
    input wire [8:0]               activation,
    input wire                     first,
    input wire                     last,
    input wire [8*COLUMNS-1:0]     weights_in,
    input wire [32*COLUMNS-1:0]    sums_in,
    output wire [8*COLUMNS-1:0]    weights_out,
    output wire [32*COLUMNS-1:0]   sums_out
);
    // Simulated as one function that every instance shares: the generated C++ is a fifth as long to compile.
    /*verilator no_inline_module*/

    wire [9*COLUMNS+8:0] activations;
    wire [COLUMNS:0] firsts, lasts;
    assign activations[8:0] = activation;
    assign firsts[0] = first;
    assign lasts[0]  = last;

    genvar j;
    generate
        for (j = 0; j < COLUMNS; j = j + 1) begin : g_cell
            hwnas_pe pe (
                .clk(clk),
                .activation_in(activations[9*j+:9]), .first_in(firsts[j]), .last_in(lasts[j]),
                .weight_in(weights_in[8*j+:8]), .sum_in(sums_in[32*j+:32]),
                .activation_out(activations[9*(j+1)+:9]), .first_out(firsts[j+1]), .last_out(lasts[j+1]),
                .weight_out(weights_out[8*j+:8]), .sum_out(sums_out[32*j+:32])
            );
        end
    endgenerate
    wire unused = &{1'b0, activations[9*COLUMNS+:9], firsts[COLUMNS], lasts[COLUMNS]};
endmodule
