// The system's zlib (RFC 1950).
#include <zlib.h>
