// CRC32C: by the processor's instruction where it has one (SSE 4.2, ARMv8 CRC), else by a table. The next
// instruction waits for three cycles for the one before, so that three stretches are gone through at a time,
// at some 20 GB/s: a recovery reads nothing else so often.
#include "CPlatform.h"

#include <string.h>
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

// The polynomial 0x1EDC6F41, bits reversed.
#define POLYNOMIAL 0x82F63B78u

static uint32_t table[256];

// Before main, so that no call has to ask whether the table is there.
__attribute__((constructor)) static void fill_table(void) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ POLYNOMIAL : crc >> 1;
    table[byte] = crc;
  }
}

uint32_t hf_crc32c_by_table(uint32_t initial, const void *bytes, size_t count) {
  const uint8_t *next = bytes;
  uint32_t crc = ~initial;
  for (; count > 0; count--) crc = crc >> 8 ^ table[(crc ^ *next++) & 0xff];
  return ~crc;
}

#if defined(__x86_64__)

#define HARDWARE __attribute__((target("sse4.2")))
#define CRC_OF_8 __builtin_ia32_crc32di
#define CRC_OF_1 __builtin_ia32_crc32qi

static int has_hardware(void) { return __builtin_cpu_supports("sse4.2"); }

#elif defined(__aarch64__)

#define HARDWARE __attribute__((target("crc")))
#define CRC_OF_8 __builtin_arm_crc32cd
#define CRC_OF_1 __builtin_arm_crc32cb

#if defined(__linux__)
static int has_hardware(void) { return (getauxval(AT_HWCAP) & (1 << 7 /* HWCAP_CRC32 */)) != 0; }
#else
static int has_hardware(void) { return 1; } // every Mac has it
#endif

#endif

#if defined(HARDWARE)

// Bytes of a stretch.
#define STRETCH 1024

// What becomes of a CRC, by each of its bytes, where a stretch of zeros follows.
static uint32_t behind_zeros[4][256];

// Before main too. A CRC of two numbers' sum is the sum of their CRCs: each bit by itself tells all.
HARDWARE static void fill_behind_zeros(void) {
  for (int bit = 0; bit < 32; bit++) {
    uint32_t crc = (uint32_t)1 << bit;
    for (int word = 0; word < STRETCH / 8; word++) crc = (uint32_t)CRC_OF_8(crc, 0);
    for (int byte = 0; byte < 256; byte++)
      if (byte >> bit % 8 & 1) behind_zeros[bit / 8][byte] ^= crc;
  }
}

__attribute__((constructor)) static void prepare_hardware(void) {
  if (has_hardware()) fill_behind_zeros();
}

static inline uint32_t pass_zeros(uint32_t crc) {
  return behind_zeros[0][crc & 0xff] ^ behind_zeros[1][crc >> 8 & 0xff] ^
         behind_zeros[2][crc >> 16 & 0xff] ^ behind_zeros[3][crc >> 24];
}

static inline uint64_t load(const uint8_t *bytes) {
  uint64_t word;
  memcpy(&word, bytes, 8);
  return word;
}

HARDWARE static uint32_t crc_by_instruction(uint32_t initial, const void *bytes, size_t count) {
  const uint8_t *next = bytes;
  uint32_t crc = ~initial;
  for (; count >= 3 * STRETCH; count -= 3 * STRETCH, next += 3 * STRETCH) {
    uint32_t second = 0, third = 0;
    for (size_t at = 0; at < STRETCH; at += 8) {
      crc = (uint32_t)CRC_OF_8(crc, load(next + at));
      second = (uint32_t)CRC_OF_8(second, load(next + STRETCH + at));
      third = (uint32_t)CRC_OF_8(third, load(next + 2 * STRETCH + at));
    }
    crc = pass_zeros(pass_zeros(crc) ^ second) ^ third;
  }
  for (; count >= 8; count -= 8, next += 8) crc = (uint32_t)CRC_OF_8(crc, load(next));
  for (; count > 0; count--) crc = CRC_OF_1(crc, *next++);
  return ~crc;
}

uint32_t hf_crc32c(uint32_t initial, const void *bytes, size_t count) {
  if (has_hardware()) return crc_by_instruction(initial, bytes, count);
  return hf_crc32c_by_table(initial, bytes, count);
}

#else

uint32_t hf_crc32c(uint32_t initial, const void *bytes, size_t count) {
  return hf_crc32c_by_table(initial, bytes, count);
}

#endif
