// What this build was made of.
#ifndef CVERSION_H
#define CVERSION_H

/// The number of the release that this is, or that comes next. scripts/release.sh reads it here.
#define HF_VERSION "0.1.0"

/// The commit in hexadecimal digits, with "-dirty" behind it where the sources were changed since; empty where it is not
/// known.
const char *hf_version_commit(void);

#endif
