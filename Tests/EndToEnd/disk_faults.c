/* A disk that fails or stalls, and an event loop that hangs, for a program that was started with
 * LD_PRELOAD=disk_faults.so: while the file named by FAULT_EIO exists, fdatasync (of files) and fsync (of directories)
 * fail with EIO; while the one named by FAULT_STALL exists, fdatasync waits; while the one named by FAULT_LOOP exists,
 * epoll_wait of the thread loop-0 does not come back. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
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

int epoll_wait(int epoll, struct epoll_event *events, int capacity, int timeout) {
  static int (*wait)(int, struct epoll_event *, int, int);
  if (!wait) wait = (int (*)(int, struct epoll_event *, int, int))dlsym(RTLD_NEXT, "epoll_wait");
  int count = wait(epoll, events, capacity, timeout);
  char name[16];
  if (getenv("FAULT_LOOP") && pthread_getname_np(pthread_self(), name, sizeof name) == 0 && !strcmp(name, "loop-0"))
    while (marked("FAULT_LOOP")) usleep(1000);
  return count;
}
