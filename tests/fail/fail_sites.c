/*
 * What all programs of one run of the rig know of sites together: which have failed already. Most
 * of the product is linked into many programs, and opening a store need fail but in one of them.
 *
 * For that a site has the same key in each program: an address is told by its function's name, the
 * file's where it is static, and how far it is from its start. The product's objects are the same
 * everywhere, only where they lie is not.
 */
#include "tests/fail/fail.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CACHE_COUNT 1024u

/* Where this program was loaded to. */
extern const char __ehdr_start[] __attribute__((visibility("hidden")));

struct function {
    uintptr_t at; /* as the file has it */
    uint64_t name;
};

static struct function *functions; /* by address */
static size_t function_count;

static struct fail_common *common;

static _Noreturn void give_up(const char *why)
{
    perror(why);
    exit(EXIT_FAILURE);
}

static uint64_t hash_text(uint64_t hash, const char *text)
{
    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * 1099511628211u;
    }
    return hash;
}

static int by_address(const void *left, const void *right)
{
    const struct function *a = left, *b = right;
    return a->at != b->at ? (a->at < b->at ? -1 : 1) : (a->name < b->name ? -1 : a->name > b->name);
}

static void functions_read(const char *file)
{
    const Elf64_Ehdr *head = (const void *)file;
    const Elf64_Shdr *sections = (const void *)(file + head->e_shoff);
    for (size_t s = 0; s < head->e_shnum; s++) {
        if (sections[s].sh_type != SHT_SYMTAB) {
            continue;
        }
        const Elf64_Sym *symbols = (const void *)(file + sections[s].sh_offset);
        const char *names = file + sections[sections[s].sh_link].sh_offset;
        size_t count = sections[s].sh_size / sizeof(*symbols);
        const char *source = "";
        functions = calloc(count, sizeof(*functions));
        for (size_t at = 0; at < count && functions != NULL; at++) {
            const char *name = names + symbols[at].st_name;
            source = ELF64_ST_TYPE(symbols[at].st_info) == STT_FILE ? name : source;
            if (ELF64_ST_TYPE(symbols[at].st_info) == STT_FUNC && symbols[at].st_value != 0) {
                bool is_local = ELF64_ST_BIND(symbols[at].st_info) == STB_LOCAL;
                uint64_t hash = hash_text(14695981039346656037u, is_local ? source : "");
                functions[function_count++] =
                    (struct function){symbols[at].st_value, hash_text(hash, name)};
            }
        }
    }
    if (function_count == 0) {
        give_up("fail: the program's symbols");
    }
    qsort(functions, function_count, sizeof(*functions), by_address);
}

static void *map_file(const char *path, int flags, int prot, size_t *out_bytes)
{
    struct stat st;
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        give_up(path);
    }
    *out_bytes = (size_t)st.st_size;
    void *mapped = mmap(NULL, *out_bytes, prot, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) {
        give_up(path);
    }
    close(fd);
    return mapped;
}

void fail_sites_init(const char *path)
{
    size_t bytes;
    char *file = map_file("/proc/self/exe", O_RDONLY, PROT_READ, &bytes);
    functions_read(file);
    munmap(file, bytes);
    if (path == NULL) {
        common =
            mmap(NULL, sizeof(*common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (common == MAP_FAILED) {
            give_up("fail: a table of sites");
        }
        return;
    }
    common = map_file(path, O_RDWR, PROT_READ | PROT_WRITE, &bytes);
    if (bytes < sizeof(*common)) {
        fprintf(stderr, "fail: %s is no file of sites\n", path);
        exit(EXIT_FAILURE);
    }
}

static uint64_t address_find(uintptr_t address)
{
    uintptr_t at = address - (uintptr_t)__ehdr_start;
    size_t low = 0, high = function_count;
    while (low + 1 < high) {
        size_t middle = low + (high - low) / 2;
        if (functions[middle].at <= at) {
            low = middle;
        } else {
            high = middle;
        }
    }
    /* Of names for one function the first, whichever was found. */
    while (low > 0 && functions[low - 1].at == functions[low].at) {
        low--;
    }
    return functions[low].name + (at - functions[low].at);
}

static uint64_t key_make(const struct fail_site *site)
{
    uint64_t key = 14695981039346656037u;
    for (uint32_t at = 0; at < site->depth; at++) {
        key = (key ^ address_find(site->stack[at])) * 1099511628211u;
        key ^= key >> 29;
    }
    return (key | 1u << 8) << 8 | site->row;
}

/* Asked at each call of a clean run, most of which come from few places. */
uint64_t fail_site_key(const struct fail_site *site)
{
    static _Thread_local struct {
        uint64_t raw; /* of the addresses as they are in this process */
        uint64_t key;
    } cache[CACHE_COUNT];
    uint64_t raw = site->row + 1;
    for (uint32_t at = 0; at < site->depth; at++) {
        raw = (raw ^ site->stack[at]) * 0x9e3779b97f4a7c15u;
        raw ^= raw >> 32;
    }
    size_t at = raw % CACHE_COUNT;
    if (cache[at].raw != raw) {
        cache[at].raw = raw;
        cache[at].key = key_make(site);
    }
    return cache[at].key;
}

/* Its place in the common table, which has room for twice what one program may have. */
static struct fail_common_site *common_find(uint64_t key)
{
    for (size_t turn = 0; turn < FAIL_COMMON_SITES; turn++) {
        struct fail_common_site *site =
            &common->sites[((size_t)(key >> 20) + turn) % FAIL_COMMON_SITES];
        uint64_t there = 0;
        if (atomic_compare_exchange_strong(&site->key, &there, key) || there == key) {
            return site;
        }
    }
    fprintf(stderr, "fail: more sites than FAIL_COMMON_SITES has room for\n");
    exit(EXIT_FAILURE);
}

void fail_site_note(uint64_t key, bool reached)
{
    struct fail_common_site *site = common_find(key);
    if (reached) {
        atomic_store(&site->reached, 1);
    }
}

void fail_site_bid(uint64_t key, uint64_t bid)
{
    struct fail_common_site *site = common_find(key);
    uint64_t lowest = atomic_load(&site->bid);
    while ((lowest == 0 || bid < lowest) &&
           !atomic_compare_exchange_weak(&site->bid, &lowest, bid)) {
        /* lowest was read again */
    }
}

uint64_t fail_site_lowest(uint64_t key)
{
    return atomic_load(&common_find(key)->bid);
}

bool fail_site_was_reached(uint64_t key)
{
    return atomic_load(&common_find(key)->reached) != 0;
}
