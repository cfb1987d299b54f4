// One cell of the array: multiplies what passes through it and keeps the sum (output stationary).
//
// Operands move on to the right and downwards every cycle, whether they mean something or not: a cycle without
// operands carries an activation of 0 and neither `first` nor `last`, and changes no sum. Registers before, inside and
// after the multiplier are those of a DSP slice.
//
// A finished sum moves down the column through two registers a row, at half the speed of the operands, so that the
// sums of one column leave at its foot one a cycle: row r of a tile is finished r cycles after row 0, and needs
// 2 (ROWS-1-r) cycles to the foot. The next tile's sums never meet them where tiles end at least ROWS cycles apart.
module hwnas_pe (
    input wire               clk,
    input wire signed [8:0]  activation_in,
    input wire               first_in,
    input wire               last_in,
    input wire signed [7:0]  weight_in,
    input wire signed [31:0] sum_in,
    output reg signed [8:0]  activation_out,
    output reg               first_out,
    output reg               last_out,
    output reg signed [7:0]  weight_out,
    output reg signed [31:0] sum_out
);
    reg signed [16:0] product;
    reg signed [31:0] sum, passing;
    reg first, last, finished;

    wire signed [31:0] extended = {{15{product[16]}}, product};

    always @(posedge clk) begin
        activation_out <= activation_in;
        weight_out     <= weight_in;
        first_out      <= first_in;
        last_out       <= last_in;

        product <= activation_out * weight_out;
        first   <= first_out;
        last    <= last_out;

        sum      <= (first ? 32'sd0 : sum) + extended;
        finished <= last;

        passing <= finished ? sum : sum_in;
        sum_out <= passing;
    end
endmodule
