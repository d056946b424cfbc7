// What Swift cannot say itself: one instruction, or a call that glibc hides behind _GNU_SOURCE.
// Every function has a portable fallback, so that arm64 and macOS compile.
#ifndef HOLDFAST_CPLATFORM_H
#define HOLDFAST_CPLATFORM_H

#include <stddef.h>
#include <stdint.h>
#if defined(__linux__)
#include <sys/epoll.h>
#include <sys/eventfd.h>
#endif

/// Tells the core that this thread spins, so that its sibling gets the execution units.
static inline void hf_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/// Asks for the cache line at `address` ahead of a write. Any address is allowed, also an invalid one.
static inline void hf_prefetch(const void *address) { __builtin_prefetch(address, 1, 3); }

/// The same ahead of a read: other cores keep their copies.
static inline void hf_prefetch_read(const void *address) { __builtin_prefetch(address, 0, 3); }

/// accept4(2) with SOCK_NONBLOCK | SOCK_CLOEXEC: the new descriptor, or -1 and errno.
int hf_accept(int listener);

/// Asks for huge pages behind [address, address + length) (madvise MADV_HUGEPAGE). A hint: no result.
void hf_advise_huge_pages(void *address, size_t length);

/// Fills the pages behind [address, address + length) that are not filled yet, all in one call: a fault for
/// each costs as much again (madvise MADV_POPULATE_WRITE). A hint: no result.
void hf_fill_pages(void *address, size_t length);

/// Gives free pages of the heap back to the system, where the allocator can (malloc_trim(3)).
void hf_trim_heap(void);

/// The calling thread's CPU time in nanoseconds (CLOCK_THREAD_CPUTIME_ID).
int64_t hf_thread_cpu_nanoseconds(void);

/// Processors that this process may run on; 0 where the system does not say.
int hf_usable_processors(void);

/// Lets writes go past the system's cache from now on, or not (O_DIRECT): 1, 0 if that was so already,
/// -1 where it cannot be.
int hf_set_direct(int descriptor, int direct);

/// Gives back the memory in which the system caches the file, but for what is not on the disk yet
/// (POSIX_FADV_DONTNEED). A hint: no result.
void hf_drop_cached(int descriptor);

/// From now on reads through this descriptor bring what is asked for into the system's cache, and nothing
/// behind it (POSIX_FADV_RANDOM). A hint: no result.
void hf_read_exactly(int descriptor);

/// Waits until `descriptor` is readable or `nanoseconds` have passed (ppoll(2), to the nanosecond where
/// poll(2) rounds to the millisecond): more than 0 where it is readable.
int hf_wait_readable(int descriptor, int64_t nanoseconds);

/// Lets the calling thread's timeouts end on time: Linux rounds them up by 50 us otherwise
/// (PR_SET_TIMERSLACK). A hint: no result.
void hf_use_precise_timers(void);

/// CRC32C (Castagnoli, RFC 3720) of `count` bytes. `initial` is 0, or the CRC of the bytes before these:
/// hf_crc32c(hf_crc32c(0, a), b) is the CRC of a and b; or a salt. By the processor's instruction
/// where it has one.
uint32_t hf_crc32c(uint32_t initial, const void *bytes, size_t count);

/// The same by a table: for processors without the instruction, and for testing the one by the other.
uint32_t hf_crc32c_by_table(uint32_t initial, const void *bytes, size_t count);

/// SHA-256 (FIPS 180-4) of `count` bytes. How long it takes depends on `count` alone. By the processor's
/// instructions where it has them. Safe in every thread.
void hf_sha256(const void *bytes, size_t count, uint8_t digest[32]);

/// The same in plain C: for other processors, and for testing the one by the other.
void hf_sha256_portable(const void *bytes, size_t count, uint8_t digest[32]);

/// `count` bytes that nobody can predict (getentropy(3), from the kernel): 0, or -1 and errno.
int hf_random_bytes(void *bytes, size_t count);

/// How far it is from `bytes`, in steps of 8, to where `value` stands; where it stands nowhere, to the
/// first step that leaves less than 4 bytes. In C, since debug builds search files with it too.
size_t hf_find32(const void *bytes, size_t count, uint32_t value);

/// openat(2), closed on exec; a file that O_CREAT makes is its owner's alone (0600). The new
/// descriptor, or -1 and errno. Here since Swift does not import variadic functions.
int hf_open_at(int directory, const char *name, int flags);

/// Starts a program, found by PATH: in a process group of its own, standard input empty, both outputs to
/// `output`, signals as a shell would leave them, and on Linux killed when the calling thread ends.
/// `arguments` ends with NULL. The process id, or -1 and errno, also where there is no such program.
int hf_spawn(char *const arguments[], int output);

/// Kills the process group of a program that hf_spawn started. To be called before the program is waited
/// for: afterwards its number may be another's.
void hf_kill_group(int group);

/// Kills the process group of the program that hf_spawn started last, unless hf_kill_group did. For
/// signal handlers, before _exit(2).
void hf_kill_last_group(void);

/// Names the calling thread, as `top -H` and debuggers show it: at most 15 bytes, the rest is cut.
void hf_name_thread(const char *name);

#endif
