/* A disk that fails or stalls, for a program that was started with LD_PRELOAD=disk_faults.so: while the
 * file named by FAULT_EIO exists, fdatasync (of files) and fsync (of directories) fail with EIO; while the
 * one named by FAULT_STALL exists, fdatasync waits. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int marked(const char *variable) {
  const char *path = getenv(variable);
  return path && access(path, F_OK) == 0;
}

static int sync_with(const char *name, int descriptor) {
  if (marked("FAULT_EIO")) {
    errno = EIO;
    return -1;
  }
  return ((int (*)(int))dlsym(RTLD_NEXT, name))(descriptor);
}

int fdatasync(int descriptor) {
  while (marked("FAULT_STALL")) usleep(1000);
  return sync_with("fdatasync", descriptor);
}

int fsync(int descriptor) { return sync_with("fsync", descriptor); }
