/* Counts allocations and Swift reference counting in a running program, without changing it:
 *
 *   cc -O2 -shared -fPIC -o count.so count.c
 *   LD_PRELOAD=./count.so COUNT_FILE=counts program
 *
 * Every function named below is interposed: count the call, then do it. The counters live in
 * COUNT_FILE, mapped and shared, so that another program reads them while this one runs.
 *
 *   functions   u64: how many records of the first kind follow
 *   record      64 bytes: a function's name (56 bytes, filled with NUL), then its calls (u64)
 *   caller      24 bytes: address that called (u64, 0 where the entry is free), index of the function
 *               that was called (u64), calls (u64); 4,096 entries
 *   the file is valid if and only if it ends with the last of the callers
 *
 * Calls that a library makes to itself past its symbol table are not seen: libswiftCore's own use
 * of malloc is, its own use of swift_retain is not. Works with glibc and dynamically linked Swift. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* X(name, result, parameters, arguments) */
#define SWIFT_FUNCTIONS(X)                                                                       \
  X(swift_allocObject, void *, (void *type, size_t size, size_t mask), (type, size, mask))       \
  X(swift_retain, void *, (void *object), (object))                                              \
  X(swift_retain_n, void *, (void *object, uint32_t n), (object, n))                             \
  X(swift_tryRetain, void *, (void *object), (object))                                           \
  X(swift_release, void, (void *object), (object))                                               \
  X(swift_release_n, void, (void *object, uint32_t n), (object, n))                              \
  X(swift_nonatomic_retain, void *, (void *object), (object))                                    \
  X(swift_nonatomic_release, void, (void *object), (object))                                     \
  X(swift_bridgeObjectRetain, void *, (void *object), (object))                                  \
  X(swift_bridgeObjectRetain_n, void *, (void *object, int n), (object, n))                      \
  X(swift_bridgeObjectRelease, void, (void *object), (object))                                   \
  X(swift_bridgeObjectRelease_n, void, (void *object, int n), (object, n))                       \
  X(swift_errorRetain, void *, (void *object), (object))                                         \
  X(swift_errorRelease, void, (void *object), (object))                                          \
  X(swift_unownedRetain, void *, (void *object), (object))                                       \
  X(swift_unownedRelease, void, (void *object), (object))                                        \
  X(swift_unownedRetainStrong, void *, (void *object), (object))                                 \
  X(swift_unownedRetainStrongAndRelease, void, (void *object), (object))                         \
  X(swift_weakLoadStrong, void *, (void *reference), (reference))                                \
  X(swift_unknownObjectRetain, void *, (void *object), (object))                                 \
  X(swift_unknownObjectRelease, void, (void *object), (object))

#define ALLOCATORS(X) X(malloc) X(calloc) X(realloc) X(aligned_alloc) X(posix_memalign)

enum { callers = 4096 };
#define INDEX(name, ...) index_##name,
enum { ALLOCATORS(INDEX) SWIFT_FUNCTIONS(INDEX) functions };
#define RECORD(name, ...) {#name, 0},
struct counts {
  uint64_t functions;
  struct {
    char name[56];
    uint64_t calls;
  } records[functions];
  struct {
    uint64_t address, function, calls;
  } callers[callers];
};
static struct counts before_start = {functions, {ALLOCATORS(RECORD) SWIFT_FUNCTIONS(RECORD)}, {{0}}};
static struct counts *counts = &before_start;

/* Adds one to an entry of the callers' table: open addressing; what finds no room is not recorded. */
static void count_caller(uint64_t function, uint64_t address) {
  uint64_t slot = (address * 0x9e3779b97f4a7c15 ^ function) >> 7;
  for (int probe = 0; probe < 64; probe++, slot++) {
    uint64_t *owner = &counts->callers[slot % callers].address, nobody = 0;
    uint64_t *called = &counts->callers[slot % callers].function;
    if (__atomic_compare_exchange_n(owner, &nobody, address, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
      *called = function;
    else if (nobody != address || *called != function)
      continue;
    __atomic_fetch_add(&counts->callers[slot % callers].calls, 1, __ATOMIC_RELAXED);
    return;
  }
}

static inline void count(int function, void *caller) {
  __atomic_fetch_add(&counts->records[function].calls, 1, __ATOMIC_RELAXED);
  count_caller((uint64_t)function, (uint64_t)(uintptr_t)caller);
}

__attribute__((constructor)) static void map_file(void) {
  const char *path = getenv("COUNT_FILE");
  if (!path) return;
  int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0 || ftruncate(file, sizeof *counts)) abort();
  void *map = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (map == MAP_FAILED) abort();
  close(file);
  counts = memcpy(map, &before_start, sizeof before_start);
}

#define CALLER __builtin_return_address(0)

/* The originals are looked up at their first use: other libraries' constructors may run before ours. */
#define INTERPOSE(name, result, parameters, arguments)                    \
  result name parameters {                                                \
    static result(*original) parameters;                                  \
    if (!original) *(void **)&original = dlsym(RTLD_NEXT, #name);         \
    count(index_##name, CALLER);                                                 \
    return original arguments;                                            \
  }
SWIFT_FUNCTIONS(INTERPOSE)

/* glibc's own names for its allocator: dlsym itself allocates, so it cannot be asked for these. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size) {
  count(index_malloc, CALLER);
  return __libc_malloc(size);
}
void *calloc(size_t items, size_t size) {
  count(index_calloc, CALLER);
  return __libc_calloc(items, size);
}
void *realloc(void *block, size_t size) {
  count(index_realloc, CALLER);
  return __libc_realloc(block, size);
}
void *aligned_alloc(size_t alignment, size_t size) {
  count(index_aligned_alloc, CALLER);
  return __libc_memalign(alignment, size);
}
int posix_memalign(void **block, size_t alignment, size_t size) {
  count(index_posix_memalign, CALLER);
  *block = __libc_memalign(alignment, size);
  return *block ? 0 : 12; /* ENOMEM */
}
