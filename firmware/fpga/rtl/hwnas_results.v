// Follows each tile's sums out of the array, straightens the columns' results into rows and holds them until taken.
//
// `finish` comes with the last step of a tile as it enters the array. ROWS results follow, one a cycle; those of rows
// beyond the job's last pixel are dropped. `room` tells the feed whether ROWS
// places are neither filled nor promised.
module hwnas_results #(
    parameter ROWS      = 8,
    parameter COLUMNS   = 8,
    parameter TILE_BITS = 7,
    parameter ROW_BITS  = 24,
    parameter PLACES    = 64
) (
    input wire                    clk,
    input wire                    reset,
    input wire                    start,
    input wire [TILE_BITS-1:0]    last_tile,
    input wire [ROW_BITS-1:0]     rows,
    input wire                    promise,
    input wire                    finish,
    output reg                    room,
    output wire                   idle,
    output wire [TILE_BITS-1:0]   tile,
    input wire [8*COLUMNS-1:0]    columns,
    output reg                    result_valid,
    input wire                    result_ready,
    output reg [8*COLUMNS-1:0]    result_data
);
    localparam ADDRESS = $clog2(PLACES);
    localparam LANE_BITS = $clog2(ROWS + 1);
    localparam TO_FOOT = ROWS + 3;              // from the array's edge to the cycle before the foot of column 0
    localparam TO_ROW = 12 + COLUMNS - 1;       // from there through requantisation to a straight row
    localparam [ADDRESS:0] ALL = PLACES[ADDRESS:0];
    localparam [ADDRESS:0] TILE = ROWS[ADDRESS:0];
    localparam [LANE_BITS-1:0] LANES = ROWS[LANE_BITS-1:0];

    // The tile whose sums are leaving, and the lane of the next of them (LANES: none is leaving).
    reg [TILE_BITS-1:0] leaving;
    reg [ROW_BITS-1:0]  rows_left;
    reg [LANE_BITS-1:0] lane;
    wire begins;
    wire busy = begins || lane != LANES;
    wire [LANE_BITS-1:0] current = begins ? {LANE_BITS{1'b0}} : lane;
    wire ends = busy && current == LANES - 1'b1;
    wire keep = {{ROW_BITS-LANE_BITS{1'b0}}, current} < rows_left;
    wire arrives;

    hwnas_delay #(.WIDTH(1), .CYCLES(TO_FOOT)) to_foot (.clk(clk), .in(finish), .out(begins));
    hwnas_delay #(.WIDTH(1), .CYCLES(TO_ROW)) to_row (.clk(clk), .in(busy && keep && !reset), .out(arrives));
    assign tile = leaving;

    always @(posedge clk) begin
        if (reset || start) begin
            leaving   <= 0;
            rows_left <= rows;
            lane      <= LANES;
        end else if (busy) begin
            lane <= current + 1'b1;
            if (ends) begin
                leaving <= (leaving == last_tile) ? {TILE_BITS{1'b0}} : leaving + 1'b1;
                if (leaving == last_tile) rows_left <= rows_left - {{ROW_BITS-LANE_BITS{1'b0}}, LANES};
            end
        end
    end

    wire [8*COLUMNS-1:0] row;
    genvar j;
    generate
        for (j = 0; j < COLUMNS; j = j + 1) begin : g_straighten
            hwnas_delay #(.WIDTH(8), .CYCLES(COLUMNS-1-j)) straighten (
                .clk(clk), .in(columns[8*j+:8]), .out(row[8*j+:8])
            );
        end
    endgenerate

    (* ram_style = "distributed" *) reg [8*COLUMNS-1:0] places [0:PLACES-1];
    reg [ADDRESS-1:0] write_at, read_at;
    reg [ADDRESS:0]   filled, taken;    // taken: filled or promised
    wire offers  = filled != 0;
    wire moves   = offers && (!result_valid || result_ready);
    reg dropped;

    assign idle = taken == 0 && !result_valid;

    // A cycle late, which is early enough: tiles end two cycles apart or more.
    always @(posedge clk) room <= taken <= ALL - TILE;
    always @(posedge clk) dropped <= busy && !keep && !reset;

    always @(posedge clk) begin
        if (arrives) places[write_at] <= row;
        if (moves) result_data <= places[read_at];
        if (reset) begin
            write_at     <= 0;
            read_at      <= 0;
            filled       <= 0;
            taken        <= 0;
            result_valid <= 1'b0;
        end else begin
            if (arrives) write_at <= write_at + 1'b1;
            if (moves) read_at <= read_at + 1'b1;
            filled <= filled + {{ADDRESS{1'b0}}, arrives} - {{ADDRESS{1'b0}}, moves};
            taken  <= taken + (promise ? TILE : {ADDRESS+1{1'b0}}) - {{ADDRESS{1'b0}}, moves} - {{ADDRESS{1'b0}}, dropped};
            if (moves) result_valid <= 1'b1;
            else if (result_ready) result_valid <= 1'b0;
        end
    end
endmodule
