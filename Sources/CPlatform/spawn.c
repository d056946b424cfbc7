#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "CPlatform.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#endif

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
  // Ignored signals and the mask outlive exec(2); the program gets what a shell would give it.
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  int nothing = open("/dev/null", O_RDONLY);
  if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0) return;
  execvp(arguments[0], arguments);
}

int hf_spawn(char *const arguments[], int output) {
  int failure[2];
  if (pipe(failure) != 0) return -1;
  fcntl(failure[0], F_SETFD, FD_CLOEXEC);
  fcntl(failure[1], F_SETFD, FD_CLOEXEC);
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
  close(failure[1]);
  if (child > 0) {
    // Both do it, so that it is done whoever comes first.
    setpgid(child, child);
    ssize_t count;
    do {
      count = read(failure[0], &code, sizeof code);
    } while (count < 0 && errno == EINTR);
    // The pipe closes without a word when the program has taken over.
    if (count == (ssize_t)sizeof code) {
      waitpid(child, NULL, 0);
      child = -1;
    }
  }
  close(failure[0]);
  errno = code;
  return child;
}
