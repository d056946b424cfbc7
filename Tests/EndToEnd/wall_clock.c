// Another wall clock for one process: the tests preload it. CLOCK_REALTIME is moved by the number of
// seconds that stands in the file WALL_CLOCK_FILE, 8 bytes, which the test may change at any time;
// CLOCK_BOOTTIME by the number behind it, as if the machine had slept.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static const volatile int64_t *shifts;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
  real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  const char *path = getenv("WALL_CLOCK_FILE");
  int file = path ? open(path, O_RDONLY) : -1;
  if (file < 0) return;
  void *memory = mmap(NULL, 16, PROT_READ, MAP_SHARED, file, 0);
  if (memory != MAP_FAILED) shifts = memory;
}

int clock_gettime(clockid_t id, struct timespec *time) {
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(id, time);
  if (result == 0 && shifts) {
    if (id == CLOCK_REALTIME) time->tv_sec += shifts[0];
    if (id == CLOCK_BOOTTIME) time->tv_sec += shifts[1];
  }
  return result;
}
