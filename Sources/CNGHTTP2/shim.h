// The system's libnghttp2 (RFC 9113 sessions, RFC 7541 header compression).
#include <nghttp2/nghttp2.h>
