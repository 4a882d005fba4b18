/*
 * What must hold for every mail that the relay writes itself, whatever its texts contain. For
 * tests and fuzz targets; LAW_REQUIRE as in laws.h.
 */
#ifndef TASUKI_TESTS_MAIL_LAWS_H
#define TASUKI_TESTS_MAIL_LAWS_H

#include "daemon/base/text.h"
#include "tests/unit/laws.h"

/* Takes one line off the head, without its CRLF. RFC 5322 2.1.1, 2.3. */
static inline struct slice mail_law_line(struct slice *rest, bool utf8)
{
    size_t end = slice_find(*rest, '\n');
    LAW_REQUIRE(end < rest->len && end >= 1 && rest->data[end - 1] == '\r');
    struct slice line = slice_head(*rest, end - 1);
    LAW_REQUIRE(line.len <= 998);
    uint32_t code = 0;
    for (struct slice left = line; left.len > 0;) {
        size_t len = text_utf8_len(left, &code);
        LAW_REQUIRE(len == 1 || (len > 1 && utf8));
        LAW_REQUIRE(code != '\r' && code != '\0');
        left = slice_tail(left, len);
    }
    *rest = slice_tail(*rest, end + 1);
    return line;
}

/* A line of a header or a status: a field of ours, or a fold of one that is not blank. */
static inline void mail_law_field(struct slice line, const char *const *names)
{
    for (size_t index = 0; index < line.len; index++) {
        LAW_REQUIRE(line.data[index] >= ' ' || (index == 0 && line.data[0] == '\t'));
        LAW_REQUIRE(line.data[index] != 0x7f);
    }
    if (line.data[0] == ' ' || line.data[0] == '\t') {
        LAW_REQUIRE(slice_trim(line).len > 0);
        return;
    }
    struct slice name = slice_head(line, slice_find(line, ':'));
    bool known = false;
    for (size_t index = 0; names[index] != NULL; index++) {
        known = known || slice_equal(name, slice_from_str(names[index]));
    }
    LAW_REQUIRE(known);
}

/* Each of ours once, in their order. Returns the boundary, or nothing for a mail of one part. */
static inline struct slice mail_law_header(struct slice *rest, bool utf8)
{
    static const char *const once[] = {"From",           "To",           "Date",    "Message-ID",
                                       "Auto-Submitted", "MIME-Version", "Subject", "Content-Type"};
    static const char *const names[] = {"From",
                                        "To",
                                        "Date",
                                        "Subject",
                                        "Message-ID",
                                        "Auto-Submitted",
                                        "MIME-Version",
                                        "Content-Type",
                                        "Content-Transfer-Encoding",
                                        NULL};
    struct slice boundary = slice_of(NULL, 0);
    size_t seen = 0;
    struct slice line = mail_law_line(rest, utf8);
    while (line.len > 0) {
        mail_law_field(line, names);
        if (seen < 8 && slice_starts_with(line, slice_from_str(once[seen])) &&
            line.data[strlen(once[seen])] == ':') {
            seen++;
        }
        if (slice_starts_with(line, SLICE("\tboundary=\""))) {
            boundary = slice_tail(line, strlen("\tboundary=\""));
            boundary.len--;
        }
        line = mail_law_line(rest, utf8);
    }
    LAW_REQUIRE(seen == 8);
    return boundary;
}

/* Quoted-printable: RFC 2045 6.7. */
static inline void mail_law_words(struct slice line)
{
    LAW_REQUIRE(line.len <= 76);
    LAW_REQUIRE(line.len == 0 || line.data[line.len - 1] != ' ');
    for (size_t index = 0; index < line.len; index++) {
        LAW_REQUIRE(line.data[index] >= ' ' && line.data[index] < 0x7f);
        if (line.data[index] == '=' && index + 1 < line.len) {
            LAW_REQUIRE(line.len - index > 2);
            LAW_REQUIRE(strchr("0123456789ABCDEF", line.data[index + 1]) != NULL);
            LAW_REQUIRE(strchr("0123456789ABCDEF", line.data[index + 2]) != NULL);
        }
    }
}

struct mail_law_status {
    unsigned blocks; /* that begin at an empty line: a recipient each */
    uint8_t status;  /* the class of the last one */
};

static inline void mail_law_status_line(struct slice line, struct mail_law_status *status)
{
    static const char *const names[] = {"Reporting-MTA",    "Original-Envelope-Id",
                                        "Arrival-Date",     "Original-Recipient",
                                        "Final-Recipient",  "Action",
                                        "Status",           "Remote-MTA",
                                        "Diagnostic-Code",  "Last-Attempt-Date",
                                        "Will-Retry-Until", NULL};
    mail_law_field(line, names);
    if (slice_starts_with(line, SLICE("Final-Recipient: "))) {
        status->blocks++;
    } else if (slice_starts_with(line, SLICE("Status: "))) {
        status->status = line.data[8];
    }
}

/* A report about so many recipients. status: '5', '4' or '2'. */
static inline void mail_laws_hold_for_report(struct slice mail, bool utf8, unsigned recipients,
                                             uint8_t status)
{
    struct mail_law_status found = {0};
    struct slice rest = mail;
    struct slice boundary = mail_law_header(&rest, utf8);
    unsigned part = 0;
    bool in_part_header = false;
    bool closed = false;
    LAW_REQUIRE(boundary.len > 0 && boundary.len <= 70); /* RFC 2046 5.1.1 */
    while (rest.len > 0) {
        LAW_REQUIRE(!closed);
        struct slice line = mail_law_line(&rest, utf8);
        if (slice_starts_with(line, SLICE("--")) &&
            slice_starts_with(slice_tail(line, 2), boundary)) {
            struct slice tail = slice_tail(line, 2 + boundary.len);
            closed = slice_equal(tail, SLICE("--"));
            LAW_REQUIRE(closed || tail.len == 0);
            part += closed ? 0 : 1;
            in_part_header = true;
        } else if (in_part_header) {
            LAW_REQUIRE(line.len == 0 || slice_starts_with(line, SLICE("Content-")));
            in_part_header = line.len > 0;
        } else if (part == 1) {
            mail_law_words(line);
        } else if (part == 2 && line.len > 0) {
            mail_law_status_line(line, &found);
            LAW_REQUIRE(found.status == 0 || found.status == status);
        }
    }
    LAW_REQUIRE(closed && part == 3 && found.blocks == recipients);
}

/* A mail of one part, as the digest. */
static inline void mail_laws_hold_for_words(struct slice mail)
{
    struct slice rest = mail;
    LAW_REQUIRE(mail_law_header(&rest, false).len == 0);
    while (rest.len > 0) {
        mail_law_words(mail_law_line(&rest, false));
    }
}

#endif
