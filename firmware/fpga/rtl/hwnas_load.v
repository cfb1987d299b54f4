// Takes the words of one stream for a job into a buffer that is used round and round, and says how many are held.
//
// `words` is set when a job starts; the stream is not touched beyond them. `freed` words are given back at once.
module hwnas_load #(
    parameter ADDRESS = 10,
    parameter COUNT   = 32
) (
    input wire                clk,
    input wire                reset,
    input wire                start,
    input wire [COUNT-1:0]    words,
    input wire                valid,
    output wire               ready,
    input wire [ADDRESS:0]    freed,
    output reg [ADDRESS-1:0]  address,
    output reg [ADDRESS:0]    held,
    output wire               complete
);
    // One less than are to come, so that its sign says that all are here; likewise the top bit of `held` says full.
    reg [COUNT:0] left;

    assign complete = left[COUNT];
    assign ready = !complete && !held[ADDRESS];
    wire taken = valid && ready;

    always @(posedge clk) begin
        if (reset || start) begin
            address <= 0;
            held    <= 0;
            left    <= reset ? {COUNT+1{1'b1}} : {1'b0, words} - 1'b1;
        end else begin
            if (taken) begin
                address <= address + 1'b1;
                left    <= left - 1'b1;
            end
            held <= held + {{ADDRESS{1'b0}}, taken} - freed;
        end
    end
endmodule
