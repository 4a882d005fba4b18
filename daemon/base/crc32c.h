/*
 * CRC-32C (Castagnoli, RFC 3720 B.4): the checksum of every record and body chunk on disk.
 */
#ifndef TASUKI_BASE_CRC32C_H
#define TASUKI_BASE_CRC32C_H

#include "daemon/base/slice.h"

/* Continues a checksum; start with 0. */
uint32_t crc32c(uint32_t crc, struct slice bytes);

#endif
