// stream: a load generator for a bidirectional stream that takes ReserveRequests: CONNECTIONS x STREAMS, each
// with WINDOW messages in flight, in a closed loop. One thread, epoll, its own HTTP/2 framing. The API has no
// such method yet: this is what one is to be measured with.
//
//   cc -O2 -o stream stream.c
//   stream PORT SERVER_PID CONNECTIONS STREAMS WINDOW SECONDS PATH [SKUS [MESSAGES_PER_FRAME [EXPIRE_IN HOLDS]]]
//
// With EXPIRE_IN and HOLDS it makes that many holds that all end EXPIRE_IN seconds after the start. BATCH=N in
// the environment sends messages of N requests (repeated ReserveRequest requests = 1). Prints one line: messages
// a second, the server's CPU per message, the client's, p50 and p99.
//
// Short names: S streams, W window, B batch; st a stream, cn a connection.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
typedef uint64_t u64;
static u64 now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}
static u64 cpu_ns(int pid) {
  clockid_t c;
  struct timespec t;
  if (clock_getcpuclockid(pid, &c) || clock_gettime(c, &t)) return 0;
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}
static u64 mix(u64 x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}
static void put32(uint8_t* p, uint32_t v) {
  v = htonl(v);
  memcpy(p, &v, 4);
}
static uint32_t get32(const uint8_t* p) {
  uint32_t v;
  memcpy(&v, p, 4);
  return ntohl(v);
}
static void put24(uint8_t* p, uint32_t v) {
  p[0] = v >> 16;
  p[1] = v >> 8;
  p[2] = v;
}
struct st {
  int inflight;
  int64_t window;
  uint32_t got, want;
  uint8_t head[5];
  u64* since;
  int h, t;
};
struct cn {
  int fd;
  int64_t window;
  uint8_t* out;
  size_t len, cap;
  uint8_t* in;
  size_t ilen;
  struct st* s;
  u64 consumed;
  int want_out, ep;
};
static int S, W, nsku;
static uint32_t streamwin = 65535;
static u64 seq, seed, done, respbytes;
static u64 hist[4000];
static int frame_msgs, B;
static double expire_in;
static u64 limit_n, start_ns;
static int ttlat;
static uint8_t body[64];
static int blen, keyat = 2, skuat;
static void queue(struct cn* c, int i, u64 now) {
  struct st* s = &c->s[i];
  int m = B ? 5 + B * (2 + blen) : 5 + blen;
  while (s->inflight < W) {
    int n = W - s->inflight;
    int maxn = 16384 / m;
    if (n > maxn) n = maxn;
    if (n > frame_msgs) n = frame_msgs;
    if (limit_n && seq + n > limit_n) n = limit_n - seq;
    while (n > 0 && ((int64_t)n * m > s->window || (int64_t)n * m > c->window)) n--;
    if (n <= 0 || c->len + 9 + n * m > c->cap) return;
    uint8_t* p = c->out + c->len;
    put24(p, n * m);
    p[3] = 0;
    p[4] = 0;
    put32(p + 5, 2 * i + 1);
    p += 9;
    for (int k = 0; k < n; k++) {
      if (B) {
        int one = 2 + blen;
        p[0] = 0;
        put32(p + 1, B * one);
        uint8_t* q = p + 5;
        for (int j = 0; j < B; j++, q += one) {
          q[0] = 0x0a;
          q[1] = blen;
          memcpy(q + 2, body, blen);
          u64 v = seed + seq++;
          for (int d = 15; d >= 0; d--, v >>= 4) q[2 + keyat + d] = "0123456789abcdef"[v & 15];
          if (nsku > 1) {
            u64 r = mix(seq) % nsku;
            for (int d = 6; d >= 0; d--, r /= 10) q[2 + skuat + d] = '0' + r % 10;
          }
        }
        s->since[s->t] = now;
        s->t = (s->t + 1) % W;
        p += m;
        continue;
      }
      p[0] = 0;
      put32(p + 1, blen);
      memcpy(p + 5, body, blen);
      u64 v = seed + seq++;
      for (int d = 15; d >= 0; d--, v >>= 4) p[5 + keyat + d] = "0123456789abcdef"[v & 15];
      if (ttlat) {
        u64 t = start_ns + (u64)(expire_in * 1e9) - now_ns();
        uint32_t sec = t / 1000000000, ns = t % 1000000000;
        uint8_t* q = p + 5 + ttlat;
        q[0] = 0x80 | (sec & 127);
        q[1] = sec >> 7;
        for (int d = 0; d < 5; d++, ns >>= 7) q[3 + d] = (ns & 127) | (d < 4 ? 0x80 : 0);
      }
      if (nsku > 1) {
        u64 r = mix(seq) % nsku;
        for (int d = 6; d >= 0; d--, r /= 10) p[5 + skuat + d] = '0' + r % 10;
      }
      s->since[s->t] = now;
      s->t = (s->t + 1) % W;
      p += m;
    }
    c->len += 9 + n * m;
    s->window -= n * m;
    c->window -= n * m;
    s->inflight += n;
  }
}
static void flush(struct cn* c) {
  while (c->len) {
    ssize_t n = send(c->fd, c->out, c->len, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EAGAIN) break;
      perror("send");
      exit(1);
    }
    c->len -= n;
    if (c->len) memmove(c->out, c->out + n, c->len);
  }
  int w = c->len > 0;
  if (w != c->want_out) {
    c->want_out = w;
    struct epoll_event e = {.events = EPOLLIN | (w ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(c->ep, EPOLL_CTL_MOD, c->fd, &e);
  }
}
int main(int argc, char** argv) {
  int port = atoi(argv[1]), pid = atoi(argv[2]), C = atoi(argv[3]);
  S = atoi(argv[4]);
  W = atoi(argv[5]);
  double secs = atof(argv[6]);
  const char* path = argv[7];
  nsku = argc > 8 ? atoi(argv[8]) : 1;
  frame_msgs = argc > 9 ? atoi(argv[9]) : 1000000;
  const char* sku = "sku-0000000";
  body[0] = 0x0a;
  body[1] = 16;
  memset(body + 2, '0', 16);
  body[18] = 0x12;
  body[19] = 2 + strlen(sku) + 2;
  body[20] = 0x0a;
  body[21] = strlen(sku);
  memcpy(body + 22, sku, strlen(sku));
  blen = 22 + strlen(sku);
  body[blen++] = 0x18;
  body[blen++] = 1;
  skuat = 22 + 4;
  if (argc > 11) {
    expire_in = atof(argv[10]);
    limit_n = strtoull(argv[11], 0, 10);
    start_ns = now_ns();
    body[blen++] = 0x1a;
    body[blen++] = 9;
    body[blen++] = 0x08;
    ttlat = blen;
    body[blen++] = 0;
    body[blen++] = 0;
    body[blen++] = 0x10;
    for (int i = 0; i < 5; i++) body[blen++] = 0;
  }
  B = getenv("BATCH") ? atoi(getenv("BATCH")) : 0;
  seed = mix(now_ns()) << 24;
  int ep = epoll_create1(0);
  struct cn* cs = calloc(C, sizeof *cs);
  for (int i = 0; i < C; i++) {
    struct cn* c = &cs[i];
    c->ep = ep;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(c->fd, (void*)&a, sizeof a)) {
      perror("connect");
      return 1;
    }
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->cap = 4 << 20;
    c->out = malloc(c->cap);
    c->in = malloc(2 << 20);
    c->window = 65535;
    c->s = calloc(S, sizeof *c->s);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
    uint8_t* p = c->out;
    memcpy(p, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    p += 24;
    uint8_t set[] = {0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff};
    memcpy(p, set, 15);
    p += 15;
    uint8_t wu[] = {0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    put32(wu + 9, 0x7fffffff - 65535);
    memcpy(p, wu, 13);
    p += 13;
    for (int k = 0; k < S; k++) {
      uint8_t* h = p;
      p += 9;
      *p++ = 0x83;
      *p++ = 0x86;
      *p++ = 0x04;
      *p++ = strlen(path);
      memcpy(p, path, strlen(path));
      p += strlen(path);
      const char* au = "127.0.0.1";
      *p++ = 0x01;
      *p++ = strlen(au);
      memcpy(p, au, strlen(au));
      p += strlen(au);
      const char* ct = "application/grpc";
      *p++ = 0x0f;
      *p++ = 31 - 15;
      *p++ = strlen(ct);
      memcpy(p, ct, strlen(ct));
      p += strlen(ct);
      *p++ = 0;
      *p++ = 2;
      memcpy(p, "te", 2);
      p += 2;
      *p++ = 8;
      memcpy(p, "trailers", 8);
      p += 8;
      put24(h, p - h - 9);
      h[3] = 1;
      h[4] = 4;
      put32(h + 5, 2 * k + 1);
      c->s[k].window = 65535;
      c->s[k].since = calloc(W, 8);
    }
    c->len = p - c->out;
    flush(c);
  }
  u64 t0 = now_ns(), tw = t0 + 500000000ull, te = 0, c0 = 0, d0 = 0, u0 = 0;
  int phase = 0;
  struct rusage ru;
  int started = 0;
  while (1) {
    u64 now = now_ns();
    if (limit_n && done >= limit_n) {
      printf("%llu holds made in %.2f s\n", (unsigned long long)done, (now - start_ns) / 1e9);
      return 0;
    }
    if (phase == 0 && now >= tw) {
      phase = 1;
      c0 = cpu_ns(pid);
      d0 = done;
      te = now + (u64)(secs * 1e9);
      tw = now;
      getrusage(RUSAGE_SELF, &ru);
      u0 = (ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000ull + ru.ru_utime.tv_usec + ru.ru_stime.tv_usec;
      memset(hist, 0, sizeof hist);
    }
    if (phase == 1 && now >= te) {
      u64 c1 = cpu_ns(pid), n = done - d0;
      getrusage(RUSAGE_SELF, &ru);
      u64 u1 = (ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000ull + ru.ru_utime.tv_usec + ru.ru_stime.tv_usec;
      u64 tot = 0, cum = 0;
      for (int i = 0; i < 4000; i++) tot += hist[i];
      int p50 = -1, p99 = -1;
      for (int i = 0; i < 4000; i++) {
        cum += hist[i];
        if (p50 < 0 && cum * 2 >= tot) p50 = i;
        if (p99 < 0 && cum * 100 >= tot * 99) p99 = i;
      }
      printf(
          "batch%d c%d s%d w%d skus%d frame%d: %.0f msg/s, server cpu %.3f us/msg (%.0f%% busy) => %.0f per core; "
          "client %.3f us; p50 %d us p99 %d us resp %.1f B\n",
          B, C, S, W, nsku, frame_msgs, n / ((now - tw) / 1e9), (c1 - c0) / 1e3 / n, (c1 - c0) * 100.0 / (now - tw),
          n * 1e9 / (double)(c1 - c0), (u1 - u0) / (double)n, p50 * 10, p99 * 10, respbytes / (double)done);
      return 0;
    }
    struct epoll_event ev[64];
    int n = epoll_wait(ep, ev, 64, 50);
    for (int i = 0; i < n; i++) {
      struct cn* c = ev[i].data.ptr;
      if (ev[i].events & EPOLLIN) {
        ssize_t r = recv(c->fd, c->in + c->ilen, (1 << 20), 0);
        if (r == 0) {
          fprintf(stderr, "closed\n");
          return 1;
        }
        if (r < 0) {
          if (errno == EAGAIN) continue;
          perror("recv");
          return 1;
        }
        c->ilen += r;
        size_t at = 0;
        u64 t = now_ns();
        while (c->ilen - at >= 9) {
          uint32_t len = get32(c->in + at) >> 8;
          if (c->ilen - at < 9 + len) break;
          uint8_t *h = c->in + at, *p = h + 9;
          int type = h[3], fl = h[4];
          uint32_t id = get32(h + 5) & 0x7fffffff;
          if (type == 0) {
            struct st* s = &c->s[id >> 1];
            c->consumed += len;
            uint32_t k = 0;
            while (k < len) {
              if (s->got < 5) {
                s->head[s->got++] = p[k++];
                if (s->got == 5) s->want = get32(s->head + 1);
              }
              if (s->got >= 5) {
                uint32_t need = s->want - (s->got - 5), av = len - k;
                uint32_t take = need < av ? need : av;
                s->got += take;
                k += take;
                if (s->got - 5 == s->want) {
                  s->got = 0;
                  s->inflight--;
                  done += B ? B : 1;
                  respbytes += s->want + 5;
                  u64 l = (t - s->since[s->h]) / 10000;
                  s->h = (s->h + 1) % W;
                  hist[l < 3999 ? l : 3999]++;
                }
              }
            }
          } else if (type == 1) {
            if (fl & 1) {
              fprintf(stderr, "trailers early: stream %u\n", id);
              for (uint32_t q = 0; q < len; q++) fputc(p[q] >= 32 && p[q] < 127 ? p[q] : '.', stderr);
              return 1;
            }
          } else if (type == 4 && !(fl & 1)) {
            for (uint32_t q = 0; q + 6 <= len; q += 6) {
              if ((p[q] << 8 | p[q + 1]) == 4) {
                uint32_t v = get32(p + q + 2);
                for (int k = 0; k < S; k++) c->s[k].window += (int64_t)v - streamwin;
                streamwin = v;
              }
            }
            uint8_t a[] = {0, 0, 0, 4, 1, 0, 0, 0, 0};
            memcpy(c->out + c->len, a, 9);
            c->len += 9;
          } else if (type == 8) {
            uint32_t v = get32(p) & 0x7fffffff;
            if (id == 0) c->window += v;
            else c->s[id >> 1].window += v;
          } else if (type == 6 && !(fl & 1)) {
            memcpy(c->out + c->len, h, 17);
            c->out[c->len + 4] = 1;
            c->len += 17;
          } else if (type == 3 || type == 7) {
            fprintf(stderr, "rst/goaway type %d stream %u code %u\n", type, id, get32(p + (type == 7 ? 4 : 0)));
            return 1;
          }
          at += 9 + len;
        }
        memmove(c->in, c->in + at, c->ilen - at);
        c->ilen -= at;
        if (c->consumed > (1 << 20)) {
          uint8_t wu[] = {0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0};
          put32(wu + 9, c->consumed);
          memcpy(c->out + c->len, wu, 13);
          c->len += 13;
          c->consumed = 0;
          for (int k = 0; k < 0; k++) {
          }
        }
      }
      u64 t = now_ns();
      if (1) {
        for (int k = 0; k < S; k++) queue(c, k, t);
      }
      flush(c);
    }
    if (!started) {
      started = 1;
      for (int i = 0; i < C; i++) {
        for (int k = 0; k < S; k++) queue(&cs[i], k, now);
        flush(&cs[i]);
      }
    }
  }
}
