#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "CPlatform.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#endif

// The group of the program that was started last, while it may have members; 0 otherwise.
static _Atomic(pid_t) last_group;

// What the new process does before it becomes the program; only calls that are safe after fork(2) in a
// process with threads. Returns where it failed, with errno.
static void become(char *const arguments[], int output, pid_t parent) {
  setpgid(0, 0);
#ifdef __linux__
  // posix_spawn cannot ask for this: that the program goes when its parent does, however that ends.
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (getppid() != parent) _exit(127);
#else
  (void)parent;
#endif
  // Ignored signals and the mask outlive exec(2); the program gets what a shell would give it. The mask
  // comes last: no handler of the parent's may run here.
  signal(SIGPIPE, SIG_DFL);
  signal(SIGXFSZ, SIG_DFL);
  signal(SIGHUP, SIG_DFL);
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  int nothing = open("/dev/null", O_RDONLY);
  if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0) return;
  execvp(arguments[0], arguments);
}

int hf_spawn(char *const arguments[], int output) {
  int failure[2];
  if (pipe(failure) != 0) return -1;
  fcntl(failure[0], F_SETFD, FD_CLOEXEC);
  fcntl(failure[1], F_SETFD, FD_CLOEXEC);
  // No handler of this thread's comes between the group and its being known.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pid_t parent = getpid();
  pid_t child = fork();
  if (child == 0) {
    become(arguments, output, parent);
    int code = errno;
    ssize_t written = write(failure[1], &code, sizeof code);
    (void)written;
    _exit(127);
  }
  int code = errno;
  if (child > 0) {
    // Both do it, so that it is done whoever comes first.
    setpgid(child, child);
    atomic_store(&last_group, child);
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  close(failure[1]);
  if (child > 0) {
    ssize_t count;
    do {
      count = read(failure[0], &code, sizeof code);
    } while (count < 0 && errno == EINTR);
    // The pipe closes without a word when the program has taken over.
    if (count == (ssize_t)sizeof code) {
      hf_kill_group(child);
      waitpid(child, NULL, 0);
      child = -1;
    }
  }
  close(failure[0]);
  errno = code;
  return child;
}

void hf_kill_group(int group) {
  killpg(group, SIGKILL);
  pid_t expected = group;
  atomic_compare_exchange_strong(&last_group, &expected, 0);
}

void hf_kill_last_group(void) {
  pid_t group = atomic_load(&last_group);
  if (group > 0) killpg(group, SIGKILL);
}
