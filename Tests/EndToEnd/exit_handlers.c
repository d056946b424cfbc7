// Says on standard error which library's function a program wants to have called at its end: the tests preload it.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

int __cxa_atexit(void (*function)(void *), void *argument, void *library) {
  static int (*real)(void (*)(void *), void *, void *);
  if (!real) real = (int (*)(void (*)(void *), void *, void *))dlsym(RTLD_NEXT, "__cxa_atexit");
  Dl_info known;
  if (dladdr((void *)function, &known) && known.dli_sname) fprintf(stderr, "at exit: %s\n", known.dli_sname);
  return real(function, argument, library);
}
