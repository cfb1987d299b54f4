// A value some cycles later: the triangles that skew what enters the array and straighten what leaves it.
module hwnas_delay #(
    parameter WIDTH  = 8,
    parameter CYCLES = 1
) (
    input wire              clk,
    input wire  [WIDTH-1:0] in,
    output wire [WIDTH-1:0] out
);
    generate
        if (CYCLES == 0) begin : g_none
            wire unused = &{1'b0, clk};
            assign out = in;
        end else begin : g_some
            reg [WIDTH*CYCLES-1:0] stages;
            if (CYCLES == 1) begin : g_one
                always @(posedge clk) stages <= in;
            end else begin : g_many
                always @(posedge clk) stages <= {stages[WIDTH*(CYCLES-1)-1:0], in};
            end
            assign out = stages[WIDTH*CYCLES-1-:WIDTH];
        end
    endgenerate
endmodule
