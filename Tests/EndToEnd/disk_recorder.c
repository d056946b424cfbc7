/* Records what a program that was started with LD_PRELOAD=disk_recorder.so does to the directory that RECORD_DIRECTORY
 * names (an absolute path), in the file that RECORD_FILE names: writes with their bytes, syncs, and what becomes of
 * names, in the order in which they happen. disk_record.py reads it.
 *
 * An entry is a struct entry, then `payload` bytes. Where the disk may have it from the moment that the call begins (a
 * write) or only what was there when it began counts (a sync), there is an entry before the call and one after it. A
 * name is recorded after the call. What is sent to a socket is recorded too, before the call and without its bytes:
 * all that the program promised stands in the record where it did. A call that this file does not know ends the
 * program. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE = 1, SYNC, END, CREATE, RENAME, UNLINK, MKDIR, TRUNCATE, SEND };
enum { ZEROS = 1, TRUNCATED = 2 };

struct entry {
  uint32_t kind, flags;
  uint64_t call, inode;
  int64_t offset;
  uint64_t length, payload;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int record = -1;
static uint64_t calls;
static char directory[PATH_MAX], parent[PATH_MAX];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("RECORD_DIRECTORY"), *file = getenv("RECORD_FILE");
  if (!path || !file) return;
  snprintf(directory, sizeof directory, "%s", path);
  snprintf(parent, sizeof parent, "%s", path);
  *strrchr(parent, '/') = 0;
  record = REAL(open)(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void fail(const char *what) {
  dprintf(2, "disk_recorder: %s\n", what);
  abort();
}

/* Where a name leads that is relative to an open directory. */
static void path_of(int base, const char *name, char *path) {
  char link[64], folder[PATH_MAX];
  if (name[0] == '/') {
    snprintf(path, PATH_MAX, "%s", name);
    return;
  }
  if (base == AT_FDCWD) {
    if (!getcwd(folder, sizeof folder)) folder[0] = 0;
  } else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", base);
    ssize_t count = readlink(link, folder, sizeof folder - 1);
    folder[count < 0 ? 0 : count] = 0;
  }
  if (snprintf(path, PATH_MAX, "%s%s%s", folder, *name ? "/" : "", name) >= PATH_MAX) fail("a path that is too long");
}

/* The name of a file right in the directory; NULL for any other path. */
static const char *name_in_directory(const char *path) {
  size_t length = strlen(directory);
  return strncmp(path, directory, length) || path[length] != '/' || strchr(path + length + 1, '/') ? NULL : path + length + 1;
}

/* Whether an open file is in the directory, is the directory, or the one that it is in; and which it is. */
static int is_recorded(int descriptor, uint64_t *inode) {
  int error = errno;
  char path[PATH_MAX];
  struct stat status;
  int recorded = 0;
  if (record >= 0 && !fstat(descriptor, &status) && (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))) {
    path_of(descriptor, "", path);
    recorded = !strncmp(path, directory, strlen(directory)) || !strcmp(path, parent);
    *inode = status.st_ino;
  }
  errno = error;
  return recorded;
}

/* Adds an entry: its number. */
static uint64_t add(struct entry entry, const struct iovec *payload, int count) {
  int error = errno;
  struct iovec parts[8] = {{&entry, sizeof entry}};
  size_t total = sizeof entry;
  if (count > 7) fail("a write of more parts than it can take");
  for (int i = 0; i < count; i++) total += (parts[i + 1] = payload[i]).iov_len;
  pthread_mutex_lock(&lock);
  if (entry.kind != END) entry.call = ++calls;
  if (REAL(writev)(record, parts, count + 1) != (ssize_t)total) fail("the record cannot be written");
  pthread_mutex_unlock(&lock);
  errno = error;
  return entry.call;
}

static void add_end(uint64_t call, int64_t result) {
  add((struct entry){.kind = END, .call = call, .offset = result}, NULL, 0);
}

static void add_name(enum kind kind, int flags, uint64_t inode, const char *name, const char *other) {
  struct iovec payload[3] = {{(void *)name, strlen(name)}, {"", 1}, {(void *)other, other ? strlen(other) : 0}};
  add((struct entry){.kind = kind, .flags = flags, .inode = inode, .payload = payload[0].iov_len + 1 + payload[2].iov_len}, payload, 3);
}

static int are_zeros(const struct iovec *parts, int count) {
  for (int i = 0; i < count; i++) {
    const char *bytes = parts[i].iov_base;
    size_t length = parts[i].iov_len;
    if (length && (bytes[0] || memcmp(bytes, bytes + 1, length - 1))) return 0;
  }
  return 1;
}

static uint64_t add_write(uint64_t inode, const struct iovec *parts, int count, off_t offset) {
  struct entry entry = {.kind = WRITE, .inode = inode, .offset = offset};
  for (int i = 0; i < count; i++) entry.length += parts[i].iov_len;
  if (are_zeros(parts, count)) {
    entry.flags = ZEROS;
    return add(entry, NULL, 0);
  }
  entry.payload = entry.length;
  return add(entry, parts, count);
}

/* Files */

ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset) {
  uint64_t inode;
  if (!is_recorded(descriptor, &inode)) return REAL(pwritev)(descriptor, parts, count, offset);
  uint64_t call = add_write(inode, parts, count, offset);
  ssize_t result = REAL(pwritev)(descriptor, parts, count, offset);
  add_end(call, result);
  return result;
}

ssize_t pwrite(int descriptor, const void *bytes, size_t length, off_t offset) {
  uint64_t inode;
  if (!is_recorded(descriptor, &inode)) return REAL(pwrite)(descriptor, bytes, length, offset);
  uint64_t call = add_write(inode, &(struct iovec){(void *)bytes, length}, 1, offset);
  ssize_t result = REAL(pwrite)(descriptor, bytes, length, offset);
  add_end(call, result);
  return result;
}

static int sync_with(int (*real)(int), int descriptor) {
  uint64_t inode;
  if (!is_recorded(descriptor, &inode)) return real(descriptor);
  uint64_t call = add((struct entry){.kind = SYNC, .inode = inode}, NULL, 0);
  int result = real(descriptor);
  add_end(call, result);
  return result;
}

int fdatasync(int descriptor) { return sync_with(REAL(fdatasync), descriptor); }
int fsync(int descriptor) { return sync_with(REAL(fsync), descriptor); }

int ftruncate(int descriptor, off_t length) {
  uint64_t inode;
  int recorded = is_recorded(descriptor, &inode);
  int result = REAL(ftruncate)(descriptor, length);
  if (recorded && !result) add((struct entry){.kind = TRUNCATE, .inode = inode, .offset = length}, NULL, 0);
  return result;
}

/* Names */

static int open_recorded(int base, const char *name, int flags, mode_t mode) {
  char path[PATH_MAX];
  struct stat status;
  const char *inside = NULL;
  if (record >= 0 && flags & (O_CREAT | O_TRUNC | O_SYNC | O_DSYNC)) {
    path_of(base, name, path);
    inside = name_in_directory(path);
  }
  int existed = inside && !fstatat(base, name, &status, 0);
  if (inside && flags & O_DSYNC) fail("a file that is synced with every write");
  int descriptor = REAL(openat)(base, name, flags, mode);
  if (inside && descriptor >= 0 && (!existed || flags & O_TRUNC)) {
    int error = errno;
    fstat(descriptor, &status);
    add_name(CREATE, existed ? TRUNCATED : 0, status.st_ino, inside, NULL);
    errno = error;
  }
  return descriptor;
}

int openat(int base, const char *name, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return open_recorded(base, name, flags, mode);
}

int open(const char *name, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return open_recorded(AT_FDCWD, name, flags, mode);
}

int renameat(int base, const char *name, int new_base, const char *new_name) {
  char path[PATH_MAX], new_path[PATH_MAX];
  if (record >= 0) {
    path_of(base, name, path);
    path_of(new_base, new_name, new_path);
    if (!name_in_directory(path) != !name_in_directory(new_path)) fail("a file that comes in or goes out");
  }
  int result = REAL(renameat)(base, name, new_base, new_name);
  if (!result && record >= 0 && name_in_directory(path)) {
    add_name(RENAME, 0, 0, name_in_directory(path), name_in_directory(new_path));
  }
  return result;
}

int rename(const char *name, const char *new_name) { return renameat(AT_FDCWD, name, AT_FDCWD, new_name); }

int unlinkat(int base, const char *name, int flags) {
  char path[PATH_MAX];
  int result = REAL(unlinkat)(base, name, flags);
  if (!result && record >= 0) {
    path_of(base, name, path);
    if (name_in_directory(path)) add_name(UNLINK, 0, 0, name_in_directory(path), NULL);
  }
  return result;
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }

int mkdir(const char *name, mode_t mode) {
  char path[PATH_MAX];
  int result = REAL(mkdir)(name, mode);
  if (!result && record >= 0) {
    path_of(AT_FDCWD, name, path);
    if (!strcmp(path, directory)) add_name(MKDIR, 0, 0, ".", NULL);
    if (name_in_directory(path)) fail("a folder in the directory");
  }
  return result;
}

/* Promises */

ssize_t send(int socket, const void *bytes, size_t length, int flags) {
  if (record >= 0) add((struct entry){.kind = SEND, .length = length}, NULL, 0);
  return REAL(send)(socket, bytes, length, flags);
}

/* What is not used today. */

static void refuse(int descriptor) {
  uint64_t inode;
  if (is_recorded(descriptor, &inode)) fail("a call that it does not know");
}

ssize_t write(int descriptor, const void *bytes, size_t length) {
  refuse(descriptor);
  return REAL(write)(descriptor, bytes, length);
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
  refuse(descriptor);
  return REAL(writev)(descriptor, parts, count);
}

ssize_t pwritev2(int descriptor, const struct iovec *parts, int count, off_t offset, int flags) {
  refuse(descriptor);
  return REAL(pwritev2)(descriptor, parts, count, offset, flags);
}

int fallocate(int descriptor, int mode, off_t offset, off_t length) {
  refuse(descriptor);
  return REAL(fallocate)(descriptor, mode, offset, length);
}

int posix_fallocate(int descriptor, off_t offset, off_t length) {
  refuse(descriptor);
  return REAL(posix_fallocate)(descriptor, offset, length);
}

ssize_t copy_file_range(int from, off_t *from_offset, int to, off_t *to_offset, size_t length, unsigned flags) {
  refuse(to);
  return REAL(copy_file_range)(from, from_offset, to, to_offset, length, flags);
}

int linkat(int base, const char *name, int new_base, const char *new_name, int flags) {
  char path[PATH_MAX];
  if (record >= 0) path_of(new_base, new_name, path);
  if (record >= 0 && name_in_directory(path)) fail("a second name");
  return REAL(linkat)(base, name, new_base, new_name, flags);
}
