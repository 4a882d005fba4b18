/*
 * One client of the demo upstream: its stream, its SMTP machine, its login.
 */
#ifndef TASUKI_UPSTREAM_SESSION_H
#define TASUKI_UPSTREAM_SESSION_H

#include "tests/upstream/upstream.h"

/* A session for an accepted socket; closes it by itself where there is no room. */
void session_start(struct loop *loop, int fd);

/* The mode may have changed: every session of the loop goes on as it says. */
void session_mode_changed(struct loop *loop);

/* Every session of the loop is cut. They are gone when session_count is 0. */
void session_cut_all(struct loop *loop);

#endif
