/*
 * The head of an HTTP/1.1 request, judged and taken apart: sans-I/O, nothing is repaired.
 *
 * Strict where the RFC lets a recipient be lenient (bare LF, folded lines, blanks before a colon),
 * since a proxy in front of us may read those another way. Requests with a body are recognised,
 * never read: nothing here takes one, and the connection ends after the answer.
 */
#ifndef TASUKI_WEB_HTTP_H
#define TASUKI_WEB_HTTP_H

#include "daemon/base/buf.h"

#define HTTP_LINE_BYTES_MAX 4096 /* of the request line */
#define HTTP_HEAD_BYTES_MAX 16384
#define HTTP_FIELDS_MAX     100

enum http_method {
    HTTP_METHOD_GET,
    HTTP_METHOD_HEAD,
    HTTP_METHOD_OTHER,  /* one of the RFCs', that we do not do */
    HTTP_METHOD_UNKNOWN /* any other token */
};

/* All slices are borrowed from the head. */
struct http_request {
    enum http_method method;
    struct slice path;  /* as sent, still percent-encoded; begins with a slash */
    struct slice query; /* what follows the question mark */
    struct slice host;  /* of the target, or else of Host; with its port */
    bool persistent;    /* another request may follow */
    bool body_follows;
};

/* Why a request is not answered. */
struct http_refusal {
    uint16_t status;
    const char *sentence; /* static */
};

/* How far a head has been looked at; zero it for each request. */
struct http_scan {
    size_t at;         /* bytes judged */
    size_t begin;      /* of the request line, behind empty lines */
    size_t line_begin; /* of the line being judged */
    uint32_t lines;    /* complete and not empty */
    uint32_t empty_lines;
};

enum http_step { HTTP_STEP_MORE, HTTP_STEP_WHOLE, HTTP_STEP_REFUSED };

/*
 * Looks at the bytes behind s->at, each once. WHOLE: the head is in[s->begin..s->at), with its
 * empty line. in begins with the same bytes as in the call before.
 * Source: RFC 9112 2.2 (CRLF, empty lines before a request), 3 (414), 5.
 */
MUST_CHECK enum http_step http_scan_feed(struct http_scan *s, struct slice in,
                                         struct http_refusal *out_refusal);

/* Takes a whole head apart. Source: RFC 9112 3, 5.1, 5.2, 6.1 to 6.3, 9.3; RFC 9110 7.2. */
MUST_CHECK bool http_request_parse(struct http_request *out, struct slice head,
                                   struct http_refusal *out_refusal);

/* Appends the decoded bytes; plus_is_blank as in a form. False on a bad escape or NUL, or when it
 * does not fit. RFC 3986 2.1. */
MUST_CHECK bool http_decode(struct buf *to, struct slice from, bool plus_is_blank);

/* "Not Found"; "" for a status that we never send. */
const char *http_status_words(uint16_t status);

#endif
