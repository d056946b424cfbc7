// Which commit this is: said by stamp.c, which scripts/stamp-version.sh makes from git, else by the archive.
#include "CVersion.h"
#include "archive.h"

// Weak: without a stamp this is the only one.
__attribute__((weak)) const char *hf_version_stamp(void) {
  // As it stands outside of an archive, it begins with a dollar sign.
  return HF_ARCHIVE_COMMIT[0] == '$' ? "" : HF_ARCHIVE_COMMIT;
}

const char *hf_version_commit(void) { return hf_version_stamp(); }
