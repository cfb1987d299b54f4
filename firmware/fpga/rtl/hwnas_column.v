// The foot of one column: the parameters of its channels, and their requantisation.
//
// `tile` is asked for one cycle before the sum is there; the result follows twelve cycles after `tile`.
module hwnas_column #(
    parameter TILES    = 64,
    parameter ADDRESS  = 6
) (
    input wire                clk,
    input wire                write,
    input wire [ADDRESS-1:0]  write_tile,
    input wire [68:0]         write_data,
    input wire [ADDRESS-1:0]  tile,
    input wire [31:0]         sum,
    input wire signed [8:0]   zero,
    input wire signed [8:0]   low,
    input wire signed [8:0]   high,
    output wire [7:0]         result
);
    // Simulated as one function that every instance shares: the generated C++ is a fifth as long to compile.
    /*verilator no_inline_module*/

    (* ram_style = "distributed" *) reg [68:0] channels [0:TILES-1];
    reg [68:0] channel;

    always @(posedge clk) begin
        if (write) channels[write_tile] <= write_data;
        channel <= channels[tile];
    end

    hwnas_requantise requantise (
        .clk(clk), .sum(sum),
        .bias(channel[31:0]), .multiplier(channel[62:32]), .even(channel[63]), .shift(channel[68:64]),
        .zero(zero), .low(low), .high(high), .result(result)
    );
endmodule
