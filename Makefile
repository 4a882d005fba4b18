# tasuki: one Makefile for the whole tree. `make help` lists the targets.
#
# VARIANT picks the build: release (default), clang, asan, lsan, tsan, fuzz. Each lives in build/VARIANT; the release programs are
# also put into build/, which is where everything else looks for them.

VARIANT ?= release
O       := build/$(VARIANT)
PYTHON  ?= /usr/bin/python3

# V=1 shows whole commands.
Q       := $(if $(V),,@)
SAY     := @$(if $(V),:,echo)

# ---- how to compile ----

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wformat=2 -Wundef \
            -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wwrite-strings -Wcast-qual -Wswitch-enum \
            -Wvla -Wnull-dereference -Werror
# clang 14 has zeroed locals only behind a flag that names its own removal.
GCC_HARDEN   := -ftrivial-auto-var-init=zero
GCC_WARNINGS := $(GCC_HARDEN) -Wduplicated-cond -Wduplicated-branches -Wlogical-op -Wcast-align=strict -Wimplicit-fallthrough=5

HARDEN  := -fstack-protector-strong -fPIE
COMMON  := -std=c17 -D_GNU_SOURCE -I. -pthread -g -MMD -MP $(WARNINGS) $(HARDEN)
LDHARDEN := -pie -Wl,-z,relro,-z,now -Wl,--as-needed -pthread

ifeq ($(VARIANT),release)
CC      := gcc
FLAGS   := $(COMMON) $(GCC_WARNINGS) -O2 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3
else ifeq ($(VARIANT),clang)
CC      := clang
FLAGS   := $(COMMON) -O2 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
else ifeq ($(VARIANT),asan)
CC      := gcc
FLAGS   := $(COMMON) $(GCC_WARNINGS) -Wno-null-dereference -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
LDFLAGS := -fsanitize=address,undefined
else ifeq ($(VARIANT),lsan)
CC      := gcc
FLAGS   := $(COMMON) $(GCC_WARNINGS) -Wno-null-dereference -O1 -fno-omit-frame-pointer -fsanitize=leak,undefined -fno-sanitize-recover=undefined
LDFLAGS := -fsanitize=leak,undefined
else ifeq ($(VARIANT),tsan)
CC      := gcc
FLAGS   := $(COMMON) $(GCC_WARNINGS) -Wno-null-dereference -O1 -fno-omit-frame-pointer -fsanitize=thread
LDFLAGS := -fsanitize=thread
else ifeq ($(VARIANT),fuzz)
CC      := clang
FLAGS   := $(COMMON) -O1 -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
LDFLAGS := -fsanitize=fuzzer,address,undefined
else
$(error VARIANT is one of release clang asan lsan tsan fuzz)
endif

VERSION := $(shell sed -n 's/^\#\# \([0-9][0-9.]*\).*/\1/p' CHANGELOG.md | head -n 1)
FLAGS   += -DTASUKI_VERSION='"$(VERSION)"'

# ---- what there is ----

# Everything below daemon/ but the wiring, and schema/: one archive; a program takes from it what it needs.
LIB_SOURCES    := $(wildcard daemon/*/*.c schema/*.c)
DAEMON_SOURCES := $(wildcard daemon/*.c)
CTL_SOURCES    := $(wildcard ctl/ctl*.c)
WEB_SOURCES    := $(wildcard web/*.c)
DEMO_SOURCES   := $(wildcard tests/upstream/*.c)
UNIT_SOURCES   := $(wildcard tests/unit/test_*.c)
FUZZ_SOURCES   := $(wildcard tests/fuzz/fuzz_*.c)
BENCH_SOURCES  := $(wildcard tests/bench/*.c)
POWER_SOURCES  := $(wildcard tests/power/*.c)

DAEMON_LIBS := -luring -llmdb -lssl -lcrypto -lsasl2 -lcares -ljansson
CTL_LIBS    := -ljansson -lsmartcols -lcurl -llmdb
WEB_LIBS    := -ljansson
UNIT_LIBS   := -lcmocka $(DAEMON_LIBS)

objects = $(patsubst %.c,$(O)/%.o,$(1))

PROGRAMS := $(O)/tasukid $(O)/tasukictl $(O)/tasuki-web $(O)/tasuki-demo-upstream
UNITS    := $(patsubst tests/unit/%.c,$(O)/unit/%,$(UNIT_SOURCES))
FUZZERS  := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(FUZZ_SOURCES))
BENCHES  := $(patsubst tests/bench/%.c,$(O)/bench/%,$(BENCH_SOURCES))

.PHONY: all programs units benches fuzzers clean help
.DEFAULT_GOAL := all

all: programs ## the four programs, release build (the default)
ifeq ($(VARIANT),release)
	@mkdir -p build
	@ln -sf $(patsubst build/%,%,$(PROGRAMS)) build/
endif

programs: $(PROGRAMS)
units: $(UNITS)
benches: $(BENCHES)
fuzzers: $(FUZZERS)

$(O)/%.o: %.c
	@mkdir -p $(@D)
	$(SAY) "  CC    $@"
	$(Q)$(CC) $(FLAGS) -c $< -o $@

$(O)/libtasuki.a: $(call objects,$(LIB_SOURCES))
	@rm -f $@
	$(Q)ar qcs $@ $^

$(O)/tasukid: $(call objects,$(DAEMON_SOURCES)) $(O)/libtasuki.a
	$(SAY) "  LINK  $@"
	$(Q)$(CC) $(LDHARDEN) $(LDFLAGS) $^ $(DAEMON_LIBS) -o $@

$(O)/tasukictl: $(call objects,$(CTL_SOURCES)) $(O)/libtasuki.a
	$(SAY) "  LINK  $@"
	$(Q)$(CC) $(LDHARDEN) $(LDFLAGS) $^ $(CTL_LIBS) -o $@

$(O)/tasuki-web: $(call objects,$(WEB_SOURCES)) $(O)/libtasuki.a
	$(SAY) "  LINK  $@"
	$(Q)$(CC) $(LDHARDEN) $(LDFLAGS) $^ $(WEB_LIBS) -o $@

$(O)/tasuki-demo-upstream: $(call objects,$(DEMO_SOURCES)) $(O)/libtasuki.a
	$(SAY) "  LINK  $@"
	$(Q)$(CC) $(LDHARDEN) $(LDFLAGS) $^ -luring -lssl -lcrypto -o $@

$(O)/unit/%: $(O)/tests/unit/%.o $(O)/libtasuki.a
	@mkdir -p $(@D)
	$(SAY) "  LINK  $@"
	$(Q)$(CC) $(LDHARDEN) $(LDFLAGS) $(filter %.o,$^) $(filter %.a,$^) $(UNIT_LIBS) -o $@

# A file of the daemon itself, not of the archive.
$(O)/unit/test_logger: $(O)/daemon/logger.o

$(O)/bench/%: $(O)/tests/bench/%.o $(O)/libtasuki.a
	@mkdir -p $(@D)
	$(SAY) "  LINK  $@"
	$(Q)$(CC) $(LDHARDEN) $(LDFLAGS) $^ $(DAEMON_LIBS) -o $@

# Its own pwrite, fdatasync and so on come before libc's, for liblmdb too: tests/power/tape.h.
$(O)/power: $(call objects,$(POWER_SOURCES)) $(O)/libtasuki.a
	$(SAY) "  LINK  $@"
	$(Q)$(CC) $(LDHARDEN) $(LDFLAGS) $^ -llmdb -ldl -o $@

ifeq ($(VARIANT),fuzz)
$(O)/fuzz_%: $(O)/tests/fuzz/fuzz_%.o $(O)/libtasuki.a
	$(SAY) "  LINK  $@"
	$(Q)$(CC) $(LDFLAGS) $^ $(DAEMON_LIBS) -o $@
else
$(FUZZERS): FORCE
	$(MAKE) VARIANT=fuzz $@
FORCE:
endif

# ---- tests in which every fallible call fails once; see tests/fail/fail.h ----

FAIL_RIG  := $(patsubst %,$(O)/tests/fail/%.o,fail_calls fail_ring fail_child fail_run fail_plan fail_sites)
FAIL_OWN  := $(patsubst tests/fail/%.c,$(O)/fail/%,$(wildcard tests/fail/test_*.c))
FAILS     := $(patsubst $(O)/unit/%,$(O)/fail/%,$(UNITS)) $(FAIL_OWN)
FAIL_LINK = $(CC) $(LDHARDEN) $(LDFLAGS) -Wl,--wrap=_cmocka_run_group_tests,--wrap=mkdtemp \
            -Wl,--gc-sections $^ $(UNIT_LIBS) -o $@

# Each call of the product comes by here, and most of it is the rig's own work.
$(O)/tests/fail/fail_calls.o $(O)/tests/fail/fail_ring.o $(O)/tests/fail/fail_sites.o: \
    FLAGS += -ffunction-sections -O2 -fno-sanitize=all

# What the product's objects call is renamed to the rig's functions, and their code is kept together,
# so that the rig knows it from its own. main is a function like others there.
$(O)/fail/symbols: tests/fail/calls.def
	@mkdir -p $(@D)
	$(Q)sed -n 's/^[A-Z]*([A-Z]*, [^,]*, \([A-Za-z0-9_]*\), (.*/\1 fail_\1/p' $< >$@
	$(Q)echo main tasukid_main >>$@

$(O)/fail/libproduct.a: $(call objects,$(LIB_SOURCES) $(DAEMON_SOURCES) tests/fail/fail_broken.c) $(O)/fail/symbols
	$(SAY) "  RENAME $@"
	@rm -f $@
	$(Q)ar qcs $@ $(filter %.o,$^)
	$(Q)objcopy --redefine-syms=$(O)/fail/symbols \
	    --rename-section .text=product_text,alloc,load,readonly,code,contents $@
	$(Q)ranlib $@

$(FAIL_OWN): $(O)/fail/%: $(O)/tests/fail/%.o $(FAIL_RIG) $(O)/fail/libproduct.a
	$(SAY) "  LINK  $@"
	$(Q)$(FAIL_LINK)

$(O)/fail/%: $(O)/tests/unit/%.o $(FAIL_RIG) $(O)/fail/libproduct.a
	$(SAY) "  LINK  $@"
	$(Q)$(FAIL_LINK)

.PRECIOUS: $(O)/%.o
-include $(shell find $(O) -name '*.d' 2>/dev/null)

# ---- how to put it where it belongs ----

PREFIX  ?= /usr/local
DESTDIR ?=
SHARE   := $(DESTDIR)$(PREFIX)/share
SERVICES := $(wildcard packaging/systemd/*.service)

.PHONY: install
install: all ## programs, manual pages, completion and units, under PREFIX (/usr/local); DESTDIR goes before it
	install -d $(DESTDIR)/etc/tasuki $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin \
	    $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/lib/sysusers.d \
	    $(SHARE)/bash-completion/completions $(SHARE)/man/man1 $(SHARE)/man/man5 $(SHARE)/man/man8
	install -m 0755 $(O)/tasukictl $(DESTDIR)$(PREFIX)/bin
	install -m 0755 $(O)/tasukid $(O)/tasuki-web $(DESTDIR)$(PREFIX)/sbin
	install -m 0644 packaging/man/*.1 $(SHARE)/man/man1
	install -m 0644 packaging/man/*.5 $(SHARE)/man/man5
	install -m 0644 packaging/man/*.8 $(SHARE)/man/man8
	install -m 0644 packaging/completion/tasukictl.bash $(SHARE)/bash-completion/completions/tasukictl
	install -m 0644 packaging/systemd/tasuki.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/tasuki.conf
	@for unit in $(SERVICES); do \
	    sed 's|@sbindir@|$(PREFIX)/sbin|' $$unit >$(DESTDIR)$(PREFIX)/lib/systemd/system/$${unit##*/} || exit 1; \
	done
	@test -e $(DESTDIR)/etc/tasuki/tasuki.conf || install -m 0644 packaging/tasuki.conf $(DESTDIR)/etc/tasuki

# ---- how to try it and to test it ----

.PHONY: check check-fast unit lint asan tsan clang fuzz fail fail-nightly fail-run crash crash-nightly power power-nightly bench demo docs

check: ## all tests, as CI runs them (installs what they need)
	sh tests/run.sh

check-fast: all unit lint ## unit tests, dialogues and lints: under a minute once built

unit: units ## unit tests and dialogues of this VARIANT
	@for test in $(UNITS); do $$test >$$test.log 2>&1 || { tail -n 40 $$test.log; echo "failed: $$test"; exit 1; }; done

lint: all ## layers, purity, tables, banned calls, format
	$(PYTHON) tests/lint/run

asan tsan clang: ## unit tests in that build
	$(MAKE) VARIANT=$@ programs unit

fail: ## each call that may fail fails once, in every unit test: what matters, in minutes
	$(MAKE) VARIANT=asan fail-run

# Without AddressSanitizer's fresh pages a run takes half the time or less.
fail-nightly: ## each call of each case fails, one after the other, under LeakSanitizer; hours
	$(MAKE) VARIANT=lsan fail-run FAIL_HOW='--nightly --jobs 4'

fail-run: $(FAILS)
	$(PYTHON) tests/fail/run_fail.py $(FAIL_HOW) $(O)/fail

T ?= 60
fuzz: fuzzers ## every fuzz target for T seconds (default 60)
	sh tests/fuzz/run.sh $(T)

crash: all ## kill -9 under load, CRASH_CYCLES times (default 50), then balance the books
	$(PYTHON) tests/crash/crash.py

crash-nightly: all ## the same with 1,000 kills
	CRASH_CYCLES=1000 $(PYTHON) tests/crash/crash.py

power: $(O)/power ## power loss: what may be on the disk after a cut, 50,000 states, each opened and judged
	$(O)/power --self-test
	$(O)/power --states 50000

power-nightly: $(O)/power ## the same with 1,000,000 states and other seeds each day
	$(O)/power --self-test
	$(O)/power --states 1000000 --seed $$(date +%Y%m%d)00

bench: all $(addprefix $(O)/bench/,bench_scale delay sink tls_load) ## side by side with Postfix, OpenSMTPD, Exim, Sendmail and no MTA; WORKS= PEERS= ROUNDS= MESSAGES=
	$(PYTHON) tests/bench/bench.py

demo: ## daemon, page and a built-in upstream on loopback, mail going through
	sh packaging/demo.sh

docs: ## pages that are made from schema/
	$(PYTHON) packaging/man/make-conf-man.py >packaging/man/tasuki.conf.5
	$(PYTHON) packaging/man/make-daemon-man.py >packaging/man/tasukid.8

clean: ## remove everything that was built
	rm -rf build

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | sort | awk -F '\t' '{printf "  %-12s %s\n", $$1, $$2}'
