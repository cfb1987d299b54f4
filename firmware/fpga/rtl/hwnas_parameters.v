// Takes the parameters of one channel a cycle, column after column, tile after tile, and says how many tiles are whole.
module hwnas_parameters #(
    parameter COLUMNS   = 8,
    parameter TILE_BITS = 7
) (
    input wire                  clk,
    input wire                  reset,
    input wire                  start,
    input wire [TILE_BITS-1:0]  tiles,
    input wire                  valid,
    output wire                 ready,
    output wire [COLUMNS-1:0]   write,
    output reg [TILE_BITS-1:0]  held
);
    reg [COLUMNS-1:0] column;
    reg [TILE_BITS-1:0] wanted;

    assign ready = held != wanted;
    wire taken = valid && ready;
    assign write = taken ? column : {COLUMNS{1'b0}};

    always @(posedge clk) begin
        if (reset || start) begin
            column <= {{COLUMNS-1{1'b0}}, 1'b1};
            held   <= 0;
            wanted <= reset ? {TILE_BITS{1'b0}} : tiles;
        end else if (taken) begin
            column <= {column[COLUMNS-2:0], column[COLUMNS-1]};
            if (column[COLUMNS-1]) held <= held + 1'b1;
        end
    end
endmodule
