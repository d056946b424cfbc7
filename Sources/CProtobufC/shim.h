// The system's libprotobuf-c: the runtime behind the generated C in CHoldfastProto.
#include <protobuf-c/protobuf-c.h>
