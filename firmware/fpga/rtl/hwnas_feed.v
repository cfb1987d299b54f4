// Decides, cycle by cycle, which words of the two buffers enter the array next: the order of a job's work.
//
//   for each panel of activations (ROWS pixels, `steps` words)
//     for each tile of channels (COLUMNS channels): `steps` steps, one multiply-accumulate in every cell each
//
// A grouped job takes the next panel with every tile. A step waits until both its words are there, so that the first
// words work while the rest still arrives. Only the last step of a tile waits for more: for the tile's parameters, for
// the sums of the tile before to be out of its way (ROWS cycles), and for room for ROWS results. Nothing behind the
// array ever has to wait.
module hwnas_feed #(
    parameter ROWS       = 8,
    parameter A_ADDRESS  = 11,
    parameter W_ADDRESS  = 12,
    parameter STEP_BITS  = 11,
    parameter TILE_BITS  = 7
) (
    input wire                  clk,
    input wire                  start,
    input wire [STEP_BITS-1:0]  steps,
    input wire [STEP_BITS-1:0]  last_step,
    input wire [TILE_BITS-1:0]  last_tile,
    input wire                  grouped,
    input wire [A_ADDRESS:0]    activations_held,
    input wire [W_ADDRESS:0]    weights_held,
    input wire [TILE_BITS-1:0]  parameters_held,
    input wire                  room,
    output wire                 step,
    output wire                 first,
    output wire                 last,
    output reg [A_ADDRESS-1:0]  activation_address,
    output reg [W_ADDRESS-1:0]  weight_address,
    output wire [A_ADDRESS:0]   freed
);
    localparam GAP_BITS = $clog2(ROWS + 1);
    localparam [GAP_BITS-1:0] GAP = ROWS[GAP_BITS-1:0] - 1'b1;

    reg [STEP_BITS-1:0] at;
    reg [TILE_BITS-1:0] tile;
    reg [A_ADDRESS-1:0] panel;
    reg [GAP_BITS-1:0]  gap;

    wire ends_tile  = at == last_step;
    wire ends_tiles = tile == last_tile;
    wire ends_panel = ends_tile && (ends_tiles || grouped);
    wire present    = {{A_ADDRESS+1-STEP_BITS{1'b0}}, at} < activations_held && {1'b0, weight_address} < weights_held;
    wire may_end    = tile < parameters_held && gap == 0 && room;

    assign step  = present && (!ends_tile || may_end);
    assign first = step && at == 0;
    assign last  = step && ends_tile;
    assign freed = (step && ends_panel) ? {{A_ADDRESS+1-STEP_BITS{1'b0}}, steps} : {A_ADDRESS+1{1'b0}};

    always @(posedge clk) begin
        if (start) begin
            at                 <= 0;
            tile               <= 0;
            panel              <= 0;
            gap                <= 0;
            activation_address <= 0;
            weight_address     <= 0;
        end else begin
            if (step) begin
                at <= ends_tile ? {STEP_BITS{1'b0}} : at + 1'b1;
                if (ends_tile) tile <= ends_tiles ? {TILE_BITS{1'b0}} : tile + 1'b1;
                weight_address <= (ends_tile && ends_tiles) ? {W_ADDRESS{1'b0}} : weight_address + 1'b1;
                activation_address <= (ends_tile && !ends_panel) ? panel : activation_address + 1'b1;
                if (ends_panel) panel <= activation_address + 1'b1;
            end
            if (last) gap <= GAP;
            else if (gap != 0) gap <= gap - 1'b1;
        end
    end
endmodule
