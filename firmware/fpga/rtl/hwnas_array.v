// ROWS x COLUMNS cells. Row i works on what its neighbour above worked on a cycle ago, column j likewise, so that one
// column of activations and one row of weights may enter together.
//
// Lane 0 of the activations is the bottom row, whose sums leave first: results keep the order of the lanes. Column j's
// sums leave j cycles after those of column 0.
module hwnas_array #(
    parameter ROWS    = 8,
    parameter COLUMNS = 8
) (
    input wire                     clk,
    input wire [9*ROWS-1:0]        activations,
    input wire                     first,
    input wire                     last,
    input wire [8*COLUMNS-1:0]     weights,
    output wire [32*COLUMNS-1:0]   sums
);
    genvar i, j;
    generate
        for (i = 0; i < ROWS; i = i + 1) begin : g_row
            wire [10:0] entering;
            hwnas_delay #(.WIDTH(11), .CYCLES(i)) skew (
                .clk(clk), .in({last, first, activations[9*(ROWS-1-i)+:9]}), .out(entering)
            );
            wire [8*COLUMNS-1:0]  weights_above, weights_below;
            wire [32*COLUMNS-1:0] sums_above, sums_below;
            hwnas_row #(.COLUMNS(COLUMNS)) row (
                .clk(clk),
                .activation(entering[8:0]), .first(entering[9]), .last(entering[10]),
                .weights_in(weights_above), .sums_in(sums_above),
                .weights_out(weights_below), .sums_out(sums_below)
            );
            if (i == 0) begin : g_top
                assign sums_above = {32*COLUMNS{1'b0}};
                for (j = 0; j < COLUMNS; j = j + 1) begin : g_skew
                    hwnas_delay #(.WIDTH(8), .CYCLES(j)) skew (
                        .clk(clk), .in(weights[8*j+:8]), .out(weights_above[8*j+:8])
                    );
                end
            end else begin : g_inner
                assign weights_above = g_row[i-1].weights_below;
                assign sums_above    = g_row[i-1].sums_below;
            end
        end
    endgenerate
    assign sums = g_row[ROWS-1].sums_below;
    wire unused = &{1'b0, g_row[ROWS-1].weights_below};
endmodule
