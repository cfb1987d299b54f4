// A sum becomes an integer of the result's grid, eleven cycles later, one a cycle.
//
//   result = clamp(round((sum + bias) * multiplier / 2^(shift+1)) + zero, low, high)
//
// `even` rounds halves to the even neighbour (scales that are powers of two: multiplier = 2^lift), else upwards
// (multiplier = 31 bits of a free scale). shift is 0 to 31, the multiplier below 2^31. Sums wrap at 32 bits.
module hwnas_requantise (
    input wire               clk,
    input wire signed [31:0] sum,
    input wire signed [31:0] bias,
    input wire [30:0]        multiplier,
    input wire [4:0]         shift,
    input wire               even,
    input wire signed [8:0]  zero,
    input wire signed [8:0]  low,
    input wire signed [8:0]  high,
    output reg [7:0]         result
);
    // 1: the sum starts at its bias
    reg signed [31:0] biased;
    reg [30:0] factor;
    // 2: four products of 16 by 16 bits, one DSP slice each
    wire signed [16:0] biased_low    = {1'b0, biased[15:0]};
    wire signed [15:0] biased_high   = biased[31:16];
    wire signed [16:0] factor_low    = {1'b0, factor[15:0]};
    wire signed [15:0] factor_high   = {1'b0, factor[30:16]};
    reg signed [33:0] low_low;
    reg signed [32:0] low_high, high_low;
    reg signed [31:0] high_high;
    // 3, 4: their sum
    reg signed [33:0] middle;
    reg [63:0] outer;
    reg signed [63:0] product;
    // 5, 6: shifted in two steps; `lost` is whether a 1 fell off
    reg signed [63:0] coarse, fine;
    reg coarse_lost, fine_lost;
    // 7: rounded down; `fits` is whether the bits beyond 16 only repeat the sign, `upwards` whether rounding adds one
    reg signed [15:0] floor;
    reg negative, fits, upwards;
    // 8: no wider than what a zero point and a clamp can still tell apart
    reg signed [15:0] narrow;
    reg adds;
    // 9: on the result's grid; 10, 11: clamped
    reg signed [16:0] placed;
    reg [7:0] plain;
    reg too_low, too_high;
    // the parameters keep pace with the sum
    wire [5:0] settings_4;
    wire [3:0] settings_5;
    wire even_6;
    hwnas_delay #(.WIDTH(6), .CYCLES(4)) pace_4 (.clk(clk), .in({even, shift}), .out(settings_4));
    hwnas_delay #(.WIDTH(4), .CYCLES(1)) pace_5 (
        .clk(clk), .in({settings_4[5], settings_4[2:0]}), .out(settings_5)
    );
    hwnas_delay #(.WIDTH(1), .CYCLES(1)) pace_6 (.clk(clk), .in(settings_5[3]), .out(even_6));

    wire unused = &{1'b0, low_low[33:32]};     // a product of two numbers of 16 bits has 32

    reg signed [63:0] shifted_8;
    reg lost_8;
    always @* begin
        case (settings_4[4:3])
            2'd0: begin shifted_8 = product;         lost_8 = 1'b0; end
            2'd1: begin shifted_8 = product >>> 8;   lost_8 = |product[7:0]; end
            2'd2: begin shifted_8 = product >>> 16;  lost_8 = |product[15:0]; end
            default: begin shifted_8 = product >>> 24; lost_8 = |product[23:0]; end
        endcase
    end
    wire [6:0] falling = coarse[6:0] & ~(7'h7f << settings_5[2:0]);
    wire signed [16:0] zero_wide = {{8{zero[8]}}, zero};
    wire signed [16:0] low_wide  = {{8{low[8]}}, low};
    wire signed [16:0] high_wide = {{8{high[8]}}, high};

    always @(posedge clk) begin
        biased <= sum + bias;
        factor <= multiplier;

        low_low   <= biased_low * factor_low;
        low_high  <= biased_low * factor_high;
        high_low  <= biased_high * factor_low;
        high_high <= biased_high * factor_high;

        middle <= {low_high[32], low_high} + {high_low[32], high_low};
        outer  <= {high_high, low_low[31:0]};

        product <= outer + {{14{middle[33]}}, middle, 16'd0};

        coarse      <= shifted_8;
        coarse_lost <= lost_8;

        fine      <= coarse >>> settings_5[2:0];
        fine_lost <= coarse_lost | (|falling);

        floor    <= fine[16:1];
        negative <= fine[63];
        fits     <= fine[63:16] == {48{fine[63]}};
        upwards  <= fine[0] & (~even_6 | fine_lost | fine[1]);

        narrow <= fits ? floor : {negative, {15{~negative}}};
        adds   <= fits & upwards;

        placed <= {narrow[15], narrow} + zero_wide + {16'd0, adds};

        too_low  <= placed < low_wide;
        too_high <= placed > high_wide;
        plain   <= placed[7:0];

        result <= too_low ? low[7:0] : too_high ? high[7:0] : plain;
    end
endmodule
