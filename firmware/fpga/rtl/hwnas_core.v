// An int8 systolic matrix core: results = requantise((activations - zero) x weights + bias), one job at a time.
//
// A job is announced at the port `job`; its streams follow in any order and at any pace: `activation` (a word is one
// step of ROWS pixels), `weight` (one step of COLUMNS channels), `parameter` (one channel), `result` (COLUMNS channels
// of one pixel). All are valid/ready: a word moves in a cycle in which both are high. ../README.md has the order of
// words and the law of cycles. STEPS, WORDS and TILES are powers of two, TILES at least 2; ROWS, COLUMNS at least 2.
module hwnas_core #(
    parameter ROWS    = 8,
    parameter COLUMNS = 8,
    parameter STEPS   = 1024,
    parameter WORDS   = 4096,
    parameter TILES   = 64
) (
    input wire                    clk,
    input wire                    reset,

    input wire                    job_valid,
    output reg                    job_ready,
    input wire [15:0]             job_steps,
    input wire [15:0]             job_tiles,
    input wire [23:0]             job_rows,
    input wire [31:0]             job_activation_words,
    input wire [31:0]             job_weight_words,
    input wire                    job_grouped,
    input wire                    job_signed,
    input wire [7:0]              job_zero,
    input wire [8:0]              job_result_zero,
    input wire [8:0]              job_low,
    input wire [8:0]              job_high,

    input wire                    activation_valid,
    output wire                   activation_ready,
    input wire [8*ROWS-1:0]       activation_data,

    input wire                    weight_valid,
    output wire                   weight_ready,
    input wire [8*COLUMNS-1:0]    weight_data,

    input wire                    parameter_valid,
    output wire                   parameter_ready,
    input wire [71:0]             parameter_data,

    output wire                   result_valid,
    input wire                    result_ready,
    output wire [8*COLUMNS-1:0]   result_data
);
    localparam A_ADDRESS = $clog2(STEPS) + 1;   // two panels: one works while the next arrives
    localparam W_ADDRESS = $clog2(WORDS);
    localparam STEP_BITS = $clog2(STEPS) + 1;
    localparam T_ADDRESS = $clog2(TILES);
    localparam TILE_BITS = T_ADDRESS + 1;
    localparam PLACES    = 1 << $clog2(2 * ROWS + COLUMNS + 32);    // what is under way behind the feed, and more

    // ---- the job
    reg [STEP_BITS-1:0] steps, last_step;
    reg [TILE_BITS-1:0] last_tile;
    reg grouped, signed_activations;
    reg [8:0] zero;
    reg signed [8:0] result_zero, low, high;

    wire activations_complete, weights_complete, parameters_complete, results_idle;
    wire [A_ADDRESS:0] activations_held;
    wire idle = activations_complete && weights_complete && parameters_complete && results_idle
              && activations_held == 0;
    wire start = job_valid && job_ready;

    always @(posedge clk) begin
        job_ready <= idle && !start && !reset;
        if (start) begin
            steps              <= job_steps[STEP_BITS-1:0];
            last_step          <= job_steps[STEP_BITS-1:0] - 1'b1;
            last_tile          <= job_tiles[TILE_BITS-1:0] - 1'b1;
            grouped            <= job_grouped;
            signed_activations <= job_signed;
            zero               <= {job_signed & job_zero[7], job_zero};
            result_zero        <= job_result_zero;
            low                <= job_low;
            high               <= job_high;
        end
    end

    // ---- what comes in
    wire [A_ADDRESS-1:0] activation_write, activation_read;
    wire [W_ADDRESS-1:0] weight_write, weight_read;
    wire [W_ADDRESS:0]   weights_held;
    wire [A_ADDRESS:0]   activations_freed;
    wire [TILE_BITS-1:0] parameters_held;
    wire [COLUMNS-1:0]   parameter_write;
    wire [8*ROWS-1:0]    activation_word;
    wire [8*COLUMNS-1:0] weight_word;

    hwnas_load #(.ADDRESS(A_ADDRESS)) load_activations (
        .clk(clk), .reset(reset), .start(start), .words(job_activation_words),
        .valid(activation_valid), .ready(activation_ready), .freed(activations_freed),
        .address(activation_write), .held(activations_held), .complete(activations_complete)
    );
    hwnas_memory #(.WIDTH(8*ROWS), .DEPTH(2*STEPS), .ADDRESS(A_ADDRESS)) activation_buffer (
        .clk(clk), .write(activation_valid && activation_ready), .write_address(activation_write),
        .write_data(activation_data), .read_address(activation_read), .read_data(activation_word)
    );
    hwnas_load #(.ADDRESS(W_ADDRESS)) load_weights (
        .clk(clk), .reset(reset), .start(start), .words(job_weight_words),
        .valid(weight_valid), .ready(weight_ready), .freed({W_ADDRESS+1{1'b0}}),
        .address(weight_write), .held(weights_held), .complete(weights_complete)
    );
    hwnas_memory #(.WIDTH(8*COLUMNS), .DEPTH(WORDS), .ADDRESS(W_ADDRESS)) weight_buffer (
        .clk(clk), .write(weight_valid && weight_ready), .write_address(weight_write),
        .write_data(weight_data), .read_address(weight_read), .read_data(weight_word)
    );
    hwnas_parameters #(.COLUMNS(COLUMNS), .TILE_BITS(TILE_BITS)) load_parameters (
        .clk(clk), .reset(reset), .start(start), .tiles(job_tiles[TILE_BITS-1:0]),
        .valid(parameter_valid), .ready(parameter_ready), .write(parameter_write), .held(parameters_held)
    );
    assign parameters_complete = !parameter_ready;

    // ---- the order of work
    wire step, first, last, room;
    hwnas_feed #(
        .ROWS(ROWS), .A_ADDRESS(A_ADDRESS), .W_ADDRESS(W_ADDRESS), .STEP_BITS(STEP_BITS), .TILE_BITS(TILE_BITS)
    ) feed (
        .clk(clk), .start(start || reset), .steps(steps), .last_step(last_step), .last_tile(last_tile),
        .grouped(grouped),
        .activations_held(activations_held), .weights_held(weights_held), .parameters_held(parameters_held),
        .room(room), .step(step), .first(first), .last(last),
        .activation_address(activation_read), .weight_address(weight_read), .freed(activations_freed)
    );

    // ---- the array: words are read in two cycles, and lose their zero point in a third
    wire step_read, first_read, last_read;
    hwnas_delay #(.WIDTH(3), .CYCLES(2)) reading (
        .clk(clk), .in({step, first, last} & {3{!reset}}), .out({step_read, first_read, last_read})
    );
    reg [9*ROWS-1:0]    centred;
    reg [8*COLUMNS-1:0] weights;
    reg first_centred, last_centred;
    integer lane;
    always @(posedge clk) begin
        for (lane = 0; lane < ROWS; lane = lane + 1)
            centred[9*lane+:9] <= step_read
                ? {signed_activations & activation_word[8*lane+7], activation_word[8*lane+:8]} - zero : 9'd0;
        weights       <= weight_word;
        first_centred <= first_read;
        last_centred  <= last_read;
    end

    wire [32*COLUMNS-1:0] sums;
    hwnas_array #(.ROWS(ROWS), .COLUMNS(COLUMNS)) array (
        .clk(clk), .activations(centred), .first(first_centred), .last(last_centred),
        .weights(weights), .sums(sums)
    );

    // ---- what goes out
    wire [TILE_BITS-1:0]  tile;
    wire [8*COLUMNS-1:0]  columns;
    genvar j;
    generate
        for (j = 0; j < COLUMNS; j = j + 1) begin : g_column
            wire [T_ADDRESS-1:0] tile_here;
            hwnas_delay #(.WIDTH(T_ADDRESS), .CYCLES(j)) follow (
                .clk(clk), .in(tile[T_ADDRESS-1:0]), .out(tile_here)
            );
            hwnas_column #(.TILES(TILES), .ADDRESS(T_ADDRESS)) column (
                .clk(clk), .write(parameter_write[j]), .write_tile(parameters_held[T_ADDRESS-1:0]),
                .write_data(parameter_data[68:0]), .tile(tile_here), .sum(sums[32*j+:32]),
                .zero(result_zero), .low(low), .high(high), .result(columns[8*j+:8])
            );
        end
    endgenerate

    hwnas_results #(.ROWS(ROWS), .COLUMNS(COLUMNS), .TILE_BITS(TILE_BITS), .PLACES(PLACES)) results (
        .clk(clk), .reset(reset), .start(start), .last_tile(last_tile), .rows(job_rows),
        .promise(last), .finish(last_centred), .room(room), .idle(results_idle), .tile(tile), .columns(columns),
        .result_valid(result_valid), .result_ready(result_ready), .result_data(result_data)
    );

    wire unused = &{1'b0, parameter_data[71:69], job_steps, job_tiles, tile};
endmodule
