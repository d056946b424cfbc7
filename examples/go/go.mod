module holdfast

go 1.19

require (
	google.golang.org/genproto/googleapis/rpc v0.0.0-20240513163218-0867130af1f8
	google.golang.org/grpc v1.64.0
	google.golang.org/protobuf v1.34.1
)
