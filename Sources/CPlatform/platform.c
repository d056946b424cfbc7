#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "CPlatform.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#ifdef __linux__
#include <malloc.h>
#include <sys/prctl.h>
#endif

void hf_trim_heap(void) {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

int hf_accept(int listener) {
#if defined(__linux__)
  return accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
  int descriptor = accept(listener, NULL, NULL);
  if (descriptor >= 0) {
    fcntl(descriptor, F_SETFL, O_NONBLOCK);
    fcntl(descriptor, F_SETFD, FD_CLOEXEC);
  }
  return descriptor;
#endif
}

void hf_advise_huge_pages(void *address, size_t length) {
#if defined(MADV_HUGEPAGE)
  madvise(address, length, MADV_HUGEPAGE);
#else
  (void)address, (void)length;
#endif
}

void hf_fill_pages(void *address, size_t length) {
#if defined(MADV_POPULATE_WRITE)
  madvise(address, length, MADV_POPULATE_WRITE);
#else
  (void)address, (void)length;
#endif
}

int64_t hf_thread_cpu_nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void hf_name_thread(const char *name) {
  char cut[16];
  strncpy(cut, name, sizeof cut - 1);
  cut[sizeof cut - 1] = 0;
#if defined(__linux__)
  pthread_setname_np(pthread_self(), cut);
#else
  pthread_setname_np(cut);
#endif
}

int hf_usable_processors(void) {
#if defined(__linux__)
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) ? 0 : CPU_COUNT(&set);
#else
  return 0;
#endif
}

void hf_use_precise_timers(void) {
#ifdef __linux__
  prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
#endif
}

int hf_open_at(int directory, const char *name, int flags) {
  return openat(directory, name, flags | O_CLOEXEC, 0600);
}

int hf_wait_readable(int descriptor, int64_t nanoseconds) {
  struct pollfd poll_descriptor = {.fd = descriptor, .events = POLLIN};
#if defined(__linux__)
  struct timespec timeout = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000};
  return ppoll(&poll_descriptor, 1, &timeout, NULL);
#else
  return poll(&poll_descriptor, 1, (int)(nanoseconds / 1000000 + 1));
#endif
}

size_t hf_find32(const void *bytes, size_t count, uint32_t value) {
  size_t offset = 0;
  for (; offset + 4 <= count; offset += 8) {
    uint32_t word;
    memcpy(&word, (const char *)bytes + offset, 4);
    if (word == value) break;
  }
  return offset;
}

void hf_drop_cached(int descriptor) {
#if defined(__linux__)
  posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
#else
  (void)descriptor;
#endif
}

void hf_read_exactly(int descriptor) {
#if defined(__linux__)
  posix_fadvise(descriptor, 0, 0, POSIX_FADV_RANDOM);
#else
  (void)descriptor;
#endif
}

int hf_set_direct(int descriptor, int direct) {
#if defined(__linux__)
  int flags = fcntl(descriptor, F_GETFL);
  if (flags < 0) return -1;
  if (!(flags & O_DIRECT) == !direct) return 0;
  return fcntl(descriptor, F_SETFL, flags ^ O_DIRECT) ? -1 : 1;
#else
  (void)descriptor, (void)direct;
  return -1;
#endif
}
