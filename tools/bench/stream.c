// stream: a gRPC client in C for ReserveStream, to measure a server with. Connections x bidirectional streams, a
// window of messages in flight on each, one reserve or a batch of them in a message; closed loop. Every reserve has a
// key of its own and is of one unit of sku-0000000, or of SKUs drawn uniformly. --help
//
// cc -O2 -o stream stream.c
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
  frame_bytes_max = 16384,
  socket_bytes_max = 1 << 20,    // made for a socket before it has taken what was made
  stream_bytes_max = 256 << 10,  // made of messages before frames were made of them; one message at least
  input_bytes = 4 << 20,
  sku_bytes = 11,
  request_bytes = 2 + 16 + 2 + 2 + sku_bytes + 2,
  latency_buckets = 20000,       // of 10 us
};

typedef struct {
  uint8_t *bytes;
  size_t start, end, capacity;
} Buffer;

typedef struct {
  Buffer out;
  int64_t window;
  int in_flight;
  uint64_t *sent_ns;             // of the messages in flight, a ring
  int oldest, newest;
  uint8_t prefix[5];
  uint32_t prefix_count, message_bytes;
  Buffer message;
} Stream;

typedef struct {
  int descriptor;
  bool watches_writing;
  int64_t window;
  uint64_t unacknowledged;       // bytes of DATA that the server has no credit back for
  Buffer out, in;
  Stream *streams;
} Connection;

static struct {
  const char *path, *host;
  int port, pid, connections, streams, window, batch, skus;
  double seconds, warmup;
} options = {"/holdfast.v1.ReservationService/ReserveStream", "127.0.0.1", 0, 0, 1, 1, 100, 1, 1, 3, 0.5};

static int poller;
static int64_t initial_window = 65535;
static uint64_t next_key, next_random, held, refused, response_bytes;
static uint64_t latencies[latency_buckets];

static _Noreturn void die(const char *what) {
  fprintf(stderr, "stream: %s\n", what);
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static uint64_t server_cpu_ns(void) {
  clockid_t clock;
  struct timespec time;
  if (!options.pid || clock_getcpuclockid(options.pid, &clock) || clock_gettime(clock, &time)) return 0;
  return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static uint64_t own_cpu_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return time.tv_sec * 1000000000ull + time.tv_nsec;
}

// SplitMix64.
static uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

static void put32(uint8_t *at, uint32_t value) {
  value = htonl(value);
  memcpy(at, &value, 4);
}

static uint32_t get32(const uint8_t *at) {
  uint32_t value;
  memcpy(&value, at, 4);
  return ntohl(value);
}

static uint8_t *room(Buffer *buffer, size_t count) {
  if (buffer->start == buffer->end) buffer->start = buffer->end = 0;
  if (buffer->end + count > buffer->capacity) {
    memmove(buffer->bytes, buffer->bytes + buffer->start, buffer->end - buffer->start);
    buffer->end -= buffer->start;
    buffer->start = 0;
    if (buffer->end + count > buffer->capacity) {
      buffer->capacity = 2 * (buffer->end + count);
      buffer->bytes = realloc(buffer->bytes, buffer->capacity);
      if (!buffer->bytes) die("no memory");
    }
  }
  return buffer->bytes + buffer->end;
}

static uint8_t *frame_header(uint8_t *at, uint32_t length, int type, int flags, uint32_t stream) {
  at[0] = length >> 16, at[1] = length >> 8, at[2] = length, at[3] = type, at[4] = flags;
  put32(at + 5, stream);
  return at + 9;
}

static uint8_t *put_varint(uint8_t *at, uint32_t value) {
  for (; value > 127; value >>= 7) *at++ = value | 128;
  *at++ = value;
  return at;
}

// A ReserveRequest: idempotency_key = 1, lines = 2 { sku = 1, quantity = 3 }.
static uint8_t *put_request(uint8_t *at) {
  *at++ = 0x0a, *at++ = 16;
  uint64_t key = next_key++;
  for (int digit = 15; digit >= 0; digit--, key >>= 4) at[digit] = "0123456789abcdef"[key & 15];
  at += 16;
  *at++ = 0x12, *at++ = 2 + sku_bytes + 2;
  *at++ = 0x0a, *at++ = sku_bytes;
  memcpy(at, "sku-0000000", sku_bytes);
  if (options.skus > 1) {
    uint64_t sku = mix(next_random++) % options.skus;
    for (int digit = sku_bytes - 1; digit >= 4; digit--, sku /= 10) at[digit] = '0' + sku % 10;
  }
  at += sku_bytes;
  *at++ = 0x18, *at++ = 1;
  return at;
}

// Messages until the window is full: requests = 1, each behind gRPC's prefix.
static void make_messages(Stream *stream, uint64_t now) {
  size_t body = (size_t)options.batch * (2 + request_bytes);
  while (stream->in_flight < options.window && stream->out.end - stream->out.start < stream_bytes_max) {
    uint8_t *at = room(&stream->out, 5 + body);
    at[0] = 0;
    put32(at + 1, body);
    at += 5;
    for (int i = 0; i < options.batch; i++) {
      *at++ = 0x0a, *at++ = request_bytes;
      at = put_request(at);
    }
    stream->out.end += 5 + body;
    stream->sent_ns[stream->newest] = now;
    stream->newest = (stream->newest + 1) % options.window;
    stream->in_flight++;
  }
}

static void make_frames(Connection *connection, int index) {
  Stream *stream = &connection->streams[index];
  while (stream->out.end > stream->out.start && connection->out.end - connection->out.start < socket_bytes_max) {
    int64_t count = stream->out.end - stream->out.start;
    if (count > frame_bytes_max) count = frame_bytes_max;
    if (count > stream->window) count = stream->window;
    if (count > connection->window) count = connection->window;
    if (count <= 0) return;
    uint8_t *at = frame_header(room(&connection->out, 9 + count), count, 0, 0, 2 * index + 1);
    memcpy(at, stream->out.bytes + stream->out.start, count);
    connection->out.end += 9 + count;
    stream->out.start += count;
    stream->window -= count;
    connection->window -= count;
  }
}

static void write_out(Connection *connection) {
  while (connection->out.end > connection->out.start) {
    ssize_t count = send(connection->descriptor, connection->out.bytes + connection->out.start,
                         connection->out.end - connection->out.start, MSG_NOSIGNAL);
    if (count < 0 && errno == EAGAIN) break;
    if (count < 0) die(strerror(errno));
    connection->out.start += count;
  }
  bool watches = connection->out.end > connection->out.start;
  if (watches == connection->watches_writing) return;
  connection->watches_writing = watches;
  struct epoll_event event = {.events = EPOLLIN | (watches ? EPOLLOUT : 0), .data.ptr = connection};
  epoll_ctl(poller, EPOLL_CTL_MOD, connection->descriptor, &event);
}

static const uint8_t *get_varint(const uint8_t *at, const uint8_t *end, uint32_t *value) {
  *value = 0;
  for (int shift = 0; at < end && shift < 35; shift += 7) {
    *value |= (uint32_t)(*at & 127) << shift;
    if (*at++ < 128) return at;
  }
  die("a response is no message");
}

// A ReserveStreamResponse: results = 1, each with held = 1 or failure = 2.
static void count_results(const uint8_t *at, const uint8_t *end) {
  int count = 0;
  while (at < end) {
    uint32_t length;
    if (*at++ != 0x0a) die("a response has another field than results");
    at = get_varint(at, end, &length);
    if (length == 0 || length > (size_t)(end - at)) die("a result is cut off");
    if (*at == 0x0a) held++;
    else refused++;
    count++;
    at += length;
  }
  if (count != options.batch) die("a response has not one result for each request");
}

static void take_data(Stream *stream, const uint8_t *at, uint32_t count, uint64_t now) {
  while (count > 0) {
    if (stream->prefix_count < 5) {
      stream->prefix[stream->prefix_count++] = *at++;
      count--;
      if (stream->prefix_count == 5) stream->message_bytes = get32(stream->prefix + 1);
      if (stream->prefix_count < 5 || stream->message_bytes > 0) continue;
    }
    uint32_t part = stream->message_bytes - (stream->message.end - stream->message.start);
    if (part > count) part = count;
    const uint8_t *message = at;
    bool is_whole = part == stream->message_bytes;
    if (!is_whole) {
      memcpy(room(&stream->message, part), at, part);
      stream->message.end += part;
      message = stream->message.bytes + stream->message.start;
      is_whole = stream->message.end - stream->message.start == stream->message_bytes;
    }
    at += part;
    count -= part;
    if (!is_whole) return;
    count_results(message, message + stream->message_bytes);
    response_bytes += stream->message_bytes;
    stream->message.start = stream->message.end = 0;
    stream->prefix_count = 0;
    uint64_t bucket = (now - stream->sent_ns[stream->oldest]) / 10000;
    latencies[bucket < latency_buckets ? bucket : latency_buckets - 1]++;
    stream->oldest = (stream->oldest + 1) % options.window;
    stream->in_flight--;
  }
}

static void take_settings(Connection *connection, const uint8_t *payload, uint32_t length) {
  for (uint32_t at = 0; at + 6 <= length; at += 6) {
    if ((payload[at] << 8 | payload[at + 1]) != 4) continue;
    int64_t window = get32(payload + at + 2);
    for (int i = 0; i < options.streams; i++) connection->streams[i].window += window - initial_window;
    initial_window = window;
  }
  frame_header(room(&connection->out, 9), 0, 4, 1, 0);
  connection->out.end += 9;
}

static void take_frame(Connection *connection, const uint8_t *header, const uint8_t *payload, uint64_t now) {
  uint32_t length = get32(header) >> 8, id = get32(header + 5) & 0x7fffffff;
  Stream *stream = id && (int)(id / 2) < options.streams ? &connection->streams[id / 2] : NULL;
  switch (header[3]) {
  case 0:
    if (!stream || header[4] & 8) die("a frame that was not expected");
    connection->unacknowledged += length;
    take_data(stream, payload, length, now);
    break;
  case 1:
    if (header[4] & 1) die("a call has ended: is the method there, and are the SKUs?");
    break;
  case 3: case 7: die("the server has ended a stream, or the connection");
  case 4:
    if (!(header[4] & 1)) take_settings(connection, payload, length);
    break;
  case 6:
    if (header[4] & 1) break;
    memcpy(frame_header(room(&connection->out, 17), 8, 6, 1, 0), payload, 8);
    connection->out.end += 17;
    break;
  case 8:
    if (stream) stream->window += get32(payload) & 0x7fffffff;
    else connection->window += get32(payload) & 0x7fffffff;
  }
}

static void read_in(Connection *connection, uint64_t now) {
  Buffer *in = &connection->in;
  uint8_t *at = room(in, 1 << 20);
  ssize_t count = recv(connection->descriptor, at, 1 << 20, 0);
  if (count < 0 && errno == EAGAIN) return;
  if (count <= 0) die("the server has closed the connection");
  in->end += count;
  while (in->end - in->start >= 9) {
    const uint8_t *header = in->bytes + in->start;
    size_t length = 9 + (get32(header) >> 8);
    if (in->end - in->start < length) break;
    take_frame(connection, header, header + 9, now);
    in->start += length;
  }
  if (connection->unacknowledged > 1 << 20) {
    put32(frame_header(room(&connection->out, 13), 4, 8, 0, 0), connection->unacknowledged);
    connection->out.end += 13;
    connection->unacknowledged = 0;
  }
}

static uint8_t *put_field(uint8_t *at, int first, const char *name, const char *value) {
  *at++ = first;
  if (first == 15) *at++ = 31 - 15;  // content-type, of HPACK's static table
  if (name) {
    *at++ = strlen(name);
    at = (uint8_t *)memcpy(at, name, strlen(name)) + strlen(name);
  }
  at = put_varint(at, strlen(value));
  return (uint8_t *)memcpy(at, value, strlen(value)) + strlen(value);
}

static void open_connection(Connection *connection) {
  connection->descriptor = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(options.port)};
  if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1) die("the target is an IPv4 address and a port");
  if (connect(connection->descriptor, (struct sockaddr *)&address, sizeof address)) die(strerror(errno));
  int one = 1;
  setsockopt(connection->descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  fcntl(connection->descriptor, F_SETFL, O_NONBLOCK);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
  epoll_ctl(poller, EPOLL_CTL_ADD, connection->descriptor, &event);
  connection->window = 65535;
  connection->streams = calloc(options.streams, sizeof *connection->streams);
  Buffer *out = &connection->out;
  uint8_t *at = room(out, 64);
  memcpy(at, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
  // The windows of what the server sends are as large as can be: of a stream by SETTINGS, and of the connection.
  at = frame_header(at + 24, 6, 4, 0, 0);
  at[0] = 0, at[1] = 4, put32(at + 2, 0x7fffffff);
  put32(frame_header(at + 6, 4, 8, 0, 0), 0x7fffffff - 65535);
  out->end += 24 + 15 + 13;
  for (int i = 0; i < options.streams; i++) {
    uint8_t *start = room(out, 512), *next = start + 9;
    *next++ = 0x83, *next++ = 0x86;
    next = put_field(next, 4, NULL, options.path);
    next = put_field(next, 1, NULL, "localhost");
    next = put_field(next, 15, NULL, "application/grpc");
    next = put_field(next, 0, "te", "trailers");
    frame_header(start, next - start - 9, 1, 4, 2 * i + 1);
    out->end += next - start;
    connection->streams[i].window = initial_window;
    connection->streams[i].sent_ns = calloc(options.window, sizeof(uint64_t));
  }
}

static void fill(Connection *connection, uint64_t now) {
  for (int i = 0; i < options.streams; i++) {
    make_messages(&connection->streams[i], now);
    make_frames(connection, i);
  }
  write_out(connection);
}

static double percentile(double part) {
  uint64_t total = 0, sum = 0;
  for (int i = 0; i < latency_buckets; i++) total += latencies[i];
  for (int i = 0; i < latency_buckets; i++)
    if ((sum += latencies[i]) >= part * total) return i * 10;
  return 0;
}

static void run(Connection *connections) {
  uint64_t start = now_ns() + options.warmup * 1e9, end = start + options.seconds * 1e9;
  uint64_t server = 0, own = 0, held_before = 0, refused_before = 0, bytes_before = 0;
  bool measures = false;
  for (int i = 0; i < options.connections; i++) fill(&connections[i], now_ns());
  while (true) {
    struct epoll_event events[64];
    int count = epoll_wait(poller, events, 64, 50);
    uint64_t now = now_ns();
    if (!measures && now >= start) {
      measures = true;
      start = now, server = server_cpu_ns(), own = own_cpu_ns();
      held_before = held, refused_before = refused, bytes_before = response_bytes;
      memset(latencies, 0, sizeof latencies);
    }
    if (measures && now >= end) {
      double decisions = held - held_before + (refused - refused_before);
      printf("{\"decisions\": %.0f, \"refused\": %llu, \"seconds\": %.3f, \"per_second\": %.0f, \"server_cpu_us\": %.4f, "
             "\"client_cpu_us\": %.4f, \"p50_us\": %.0f, \"p99_us\": %.0f, \"response_bytes\": %.1f}\n",
             decisions, (unsigned long long)(refused - refused_before), (now - start) / 1e9, decisions * 1e9 / (now - start),
             (server_cpu_ns() - server) / 1e3 / decisions, (own_cpu_ns() - own) / 1e3 / decisions, percentile(0.5),
             percentile(0.99), (response_bytes - bytes_before) / decisions);
      return;
    }
    for (int i = 0; i < count; i++) {
      Connection *connection = events[i].data.ptr;
      if (events[i].events & ~EPOLLOUT) read_in(connection, now);
      fill(connection, now);
    }
  }
}

static void usage(void) {
  puts("stream [options] ADDRESS:PORT\n"
       "  -c, --connections N   1\n"
       "  -m, --streams N       of each connection: 1\n"
       "  -i, --window N        messages in flight on each stream: 100\n"
       "  -b, --batch N         reserves in a message: 1\n"
       "  -s, --skus N          SKUs to draw from, sku-0000000 and so on: 1\n"
       "  -d, --seconds S       measured: 3\n"
       "  -w, --warmup S        before that: 0.5\n"
       "  -p, --pid PID         of the server, whose CPU time is measured\n"
       "      --path PATH       of the method: ReserveStream\n"
       "Prints one line of JSON. Exit status 1 where a call ends, or a response is not what it should be.");
}

int main(int argc, char **argv) {
  static const struct option names[] = {
      {"connections", 1, 0, 'c'}, {"streams", 1, 0, 'm'}, {"window", 1, 0, 'i'}, {"batch", 1, 0, 'b'},
      {"skus", 1, 0, 's'},        {"seconds", 1, 0, 'd'}, {"warmup", 1, 0, 'w'}, {"pid", 1, 0, 'p'},
      {"path", 1, 0, 'P'},        {"help", 0, 0, 'h'},    {0}};
  for (int option; (option = getopt_long(argc, argv, "c:m:i:b:s:d:w:p:h", names, NULL)) != -1;) {
    switch (option) {
    case 'c': options.connections = atoi(optarg); break;
    case 'm': options.streams = atoi(optarg); break;
    case 'i': options.window = atoi(optarg); break;
    case 'b': options.batch = atoi(optarg); break;
    case 's': options.skus = atoi(optarg); break;
    case 'd': options.seconds = atof(optarg); break;
    case 'w': options.warmup = atof(optarg); break;
    case 'p': options.pid = atoi(optarg); break;
    case 'P': options.path = optarg; break;
    case 'h': usage(); return 0;
    default: return 2;
    }
  }
  char *colon = optind < argc ? strrchr(argv[optind], ':') : NULL;
  if (!colon || options.window < 1 || options.batch < 1 || options.streams < 1 || options.connections < 1) {
    usage();
    return 2;
  }
  *colon = 0;
  options.host = argv[optind];
  options.port = atoi(colon + 1);
  next_key = mix(now_ns()) << 24;
  next_random = mix(now_ns());
  poller = epoll_create1(0);
  Connection *connections = calloc(options.connections, sizeof *connections);
  for (int i = 0; i < options.connections; i++) open_connection(&connections[i]);
  run(connections);
  return 0;
}
