// A buffer of block RAM: written at one port, read at the other, two cycles after the address.
// The second register is the block RAM's own, and is what lets it run at its full clock.
module hwnas_memory #(
    parameter WIDTH   = 64,
    parameter DEPTH   = 1024,
    parameter ADDRESS = 10
) (
    input wire               clk,
    input wire               write,
    input wire [ADDRESS-1:0] write_address,
    input wire [WIDTH-1:0]   write_data,
    input wire [ADDRESS-1:0] read_address,
    output reg [WIDTH-1:0]   read_data
);
    (* ram_style = "block" *) reg [WIDTH-1:0] words [0:DEPTH-1];
    reg [WIDTH-1:0] fetched;

    always @(posedge clk) begin
        if (write) words[write_address] <= write_data;
        fetched   <= words[read_address];
        read_data <= fetched;
    end
endmodule
