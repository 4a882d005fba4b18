/*
 * The table of addresses. See route.h.
 */
#include "web/route.h"

#include "daemon/base/num.h"
#include "daemon/base/text.h"
#include "web/page_data.h"

#include <stdio.h>
#include <stdlib.h>

#define ID_BYTES_MAX    64
#define QUERY_BYTES_MAX HTTP_LINE_BYTES_MAX

/* What is made of the daemon's answer. */
enum shape {
    SHAPE_FILE,    /* nothing is asked: a file of the page */
    SHAPE_ALIVE,   /* nothing is asked: the process lives */
    SHAPE_JSON,    /* the result as it is */
    SHAPE_MOVES,   /* of show: what happened to the message */
    SHAPE_READY,   /* of status: does the daemon take mail? */
    SHAPE_METRICS, /* the text, and whether there was one */
};

/* Fills in args from the request; false sets trouble. */
typedef bool args_fn(json_t *args, const struct http_request *request, struct slice rest,
                     struct trouble *trouble);

static args_fn no_args, list_args, id_args, reason_args, device_args;

struct route {
    const char *path;
    const char *tail; /* NULL: path is all of it; else an argument stands between it and this */
    enum shape shape;
    const struct slice *file;
    const char *type;
    enum command command;
    args_fn *args;
};

#define UTF8(type) type "; charset=utf-8"
#define JSON       "application/json"

static const struct route routes[] = {
    {"/", NULL, SHAPE_FILE, &page_html, UTF8("text/html"), 0, no_args},
    {"/page.css", NULL, SHAPE_FILE, &page_css, UTF8("text/css"), 0, no_args},
    {"/page.js", NULL, SHAPE_FILE, &page_js, UTF8("text/javascript"), 0, no_args},
    {"/icon.svg", NULL, SHAPE_FILE, &page_icon, "image/svg+xml", 0, no_args},
    {"/healthz", NULL, SHAPE_ALIVE, NULL, UTF8("text/plain"), 0, no_args},
    {"/readyz", NULL, SHAPE_READY, NULL, UTF8("text/plain"), COMMAND_STATUS, no_args},
    {"/metrics", NULL, SHAPE_METRICS, NULL, "text/plain; version=0.0.4; charset=utf-8",
     COMMAND_METRICS, no_args},
    {"/api/v1/openapi.json", NULL, SHAPE_FILE, &page_openapi, JSON, 0, no_args},
    {"/api/v1/status", NULL, SHAPE_JSON, NULL, JSON, COMMAND_STATUS, no_args},
    {"/api/v1/messages", NULL, SHAPE_JSON, NULL, JSON, COMMAND_QUEUE, list_args},
    {"/api/v1/history", NULL, SHAPE_JSON, NULL, JSON, COMMAND_HISTORY, list_args},
    {"/api/v1/reasons", NULL, SHAPE_JSON, NULL, JSON, COMMAND_COUNTS, reason_args},
    {"/api/v1/devices", NULL, SHAPE_JSON, NULL, JSON, COMMAND_COUNTS, device_args},
    {"/api/v1/messages/", "/history", SHAPE_MOVES, NULL, JSON, COMMAND_SHOW, id_args},
    {"/api/v1/messages/", "/transcript", SHAPE_JSON, NULL, JSON, COMMAND_TRANSCRIPT, id_args},
    {"/api/v1/messages/", "", SHAPE_JSON, NULL, JSON, COMMAND_SHOW, id_args},
};

/* ---- arguments ---- */

static bool bad(struct trouble *t, const char *message, const char *hint)
{
    trouble_set(t, 400, "bad-request", message, hint);
    return false;
}

static bool no_args(json_t *args, const struct http_request *request, struct slice rest,
                    struct trouble *trouble)
{
    (void)args, (void)request, (void)rest, (void)trouble;
    return true;
}

static bool add_text(json_t *args, const char *key, struct slice text)
{
    json_t *value = json_stringn((const char *)text.data, text.len); /* NULL: no UTF-8 */
    return value != NULL && json_object_set_new(args, key, value) == 0;
}

static bool id_args(json_t *args, const struct http_request *request, struct slice rest,
                    struct trouble *trouble)
{
    (void)request;
    uint8_t memory[ID_BYTES_MAX];
    struct buf id;
    buf_init(&id, memory, sizeof memory);
    if (rest.len == 0 || !http_decode(&id, rest, false) || !add_text(args, "id", buf_slice(&id))) {
        return bad(trouble, "that is no message id", "/api/v1/messages lists them");
    }
    return true;
}

/* A parameter of the address and what it is to the daemon. The rows end with a NULL. */
struct parameter {
    const char *name, *key;
    bool number; /* a count of rows; else text */
};

static const struct parameter list_parameters[] = {{"q", "filter", false},
                                                   {"cursor", "cursor", false},
                                                   {"limit", "limit", true},
                                                   {NULL, NULL, false}};
static const struct parameter count_parameters[] = {
    {"after", "after", false}, {"limit", "limit", true}, {NULL, NULL, false}};

static bool add_limit(json_t *args, const char *key, struct slice text, struct trouble *trouble)
{
    uint64_t limit = 0;
    if (!u64_parse(text, &limit) || limit < 1 || limit > WIRE_QUEUE_LIMIT_MAX) {
        return bad(trouble, "limit is a number from 1 to 1000", "?limit=100");
    }
    return json_object_set_new(args, key, json_integer((json_int_t)limit)) == 0;
}

static bool unknown_parameter(struct slice name, const struct parameter *known,
                              struct trouble *trouble)
{
    const char *names[4];
    size_t count = 0;
    char hint[100] = "there are ";
    for (; known[count].name != NULL; count++) {
        size_t len = strlen(hint);
        const char *gap = count == 0 ? "" : known[count + 1].name == NULL ? " and " : ", ";
        CHECK(count < sizeof names / sizeof names[0]);
        names[count] = known[count].name;
        (void)snprintf(hint + len, sizeof hint - len, "%s%s", gap, names[count]);
    }
    const char *meant = text_nearest(name, names, count);
    if (meant != NULL) {
        (void)snprintf(hint, sizeof hint, "did you mean %s?", meant);
    }
    return bad(trouble, "an unknown parameter", hint);
}

static bool add_parameter(json_t *args, const struct parameter *known, struct slice name,
                          struct slice value, struct trouble *trouble)
{
    uint8_t memory[QUERY_BYTES_MAX];
    struct buf decoded;
    buf_init(&decoded, memory, sizeof memory);
    const struct parameter *p = known;
    while (p->name != NULL && !slice_equal(name, slice_from_str(p->name))) {
        p++;
    }
    if (p->name == NULL) {
        return unknown_parameter(name, known, trouble);
    }
    if (json_object_get(args, p->key) != NULL) {
        return bad(trouble, "a parameter stands there twice", "");
    }
    if (!http_decode(&decoded, value, true)) {
        return bad(trouble, "a parameter is not well encoded", "% is written as %25");
    }
    if (p->number) {
        return add_limit(args, p->key, buf_slice(&decoded), trouble);
    }
    if (!add_text(args, p->key, buf_slice(&decoded))) {
        return bad(trouble, "a parameter is not UTF-8", "");
    }
    return true;
}

static bool query_args(json_t *args, const struct http_request *request,
                       const struct parameter *known, struct trouble *trouble)
{
    struct slice query = request->query;
    while (query.len > 0) {
        size_t at = slice_find(query, '&');
        struct slice pair = slice_head(query, at);
        size_t equals = slice_find(pair, '=');
        if (pair.len > 0 && !add_parameter(args, known, slice_head(pair, equals),
                                           slice_tail(pair, equals + 1), trouble)) {
            return false;
        }
        query = slice_tail(query, at + 1);
    }
    return true;
}

static bool list_args(json_t *args, const struct http_request *request, struct slice rest,
                      struct trouble *trouble)
{
    (void)rest;
    return query_args(args, request, list_parameters, trouble);
}

static bool count_args(json_t *args, const struct http_request *request, const char *by,
                       struct trouble *trouble)
{
    return json_object_set_new(args, "by", json_string(by)) == 0 &&
           query_args(args, request, count_parameters, trouble);
}

static bool reason_args(json_t *args, const struct http_request *request, struct slice rest,
                        struct trouble *trouble)
{
    (void)rest;
    return count_args(args, request, "reason", trouble);
}

static bool device_args(json_t *args, const struct http_request *request, struct slice rest,
                        struct trouble *trouble)
{
    (void)rest;
    return count_args(args, request, "device", trouble);
}

/* ---- begin ---- */

static enum answer_form form_of(struct slice path)
{
    return slice_starts_with(path, SLICE("/api/")) ? ANSWER_FORM_JSON : ANSWER_FORM_TEXT;
}

static bool is_at(const struct route *route, struct slice path, struct slice *out_rest)
{
    struct slice own = slice_from_str(route->path);
    if (route->tail == NULL) {
        return slice_equal(path, own);
    }
    size_t tail = strlen(route->tail);
    if (!slice_starts_with(path, own) || path.len < own.len + tail ||
        !slice_equal(slice_tail(path, path.len - tail), slice_from_str(route->tail))) {
        return false;
    }
    *out_rest = slice_head(slice_tail(path, own.len), path.len - own.len - tail);
    return true;
}

static const struct route *find(struct slice path, struct slice *out_rest)
{
    *out_rest = slice_of(NULL, 0);
    for (size_t index = 0; index < sizeof routes / sizeof routes[0]; index++) {
        if (is_at(&routes[index], path, out_rest)) {
            return &routes[index];
        }
    }
    return NULL;
}

enum route_step route_begin(struct route_plan *out, const struct http_request *request)
{
    struct trouble trouble;
    struct slice rest;
    *out = (struct route_plan){.route = find(request->path, &rest)};
    const struct route *route = out->route;
    if (route == NULL) {
        trouble_set(&trouble, 404, "not-found", "there is nothing at this address",
                    "/api/v1/openapi.json lists the addresses");
        answer_trouble(&out->answer, form_of(request->path), &trouble);
        return ROUTE_STEP_ANSWER;
    }
    if (route->shape == SHAPE_FILE) {
        answer_static(&out->answer, 200, route->type, *route->file);
        out->answer.kept = form_of(request->path) == ANSWER_FORM_TEXT;
        return ROUTE_STEP_ANSWER;
    }
    if (route->shape == SHAPE_ALIVE) {
        answer_static(&out->answer, 200, route->type, SLICE("ok\n"));
        return ROUTE_STEP_ANSWER;
    }
    json_t *args = json_object();
    CHECK(args != NULL);
    if (!route->args(args, request, rest, &trouble)) {
        json_decref(args);
        answer_trouble(&out->answer, ANSWER_FORM_JSON, &trouble);
        return ROUTE_STEP_ANSWER;
    }
    out->command = route->command;
    out->args = args;
    return ROUTE_STEP_ASK;
}

/* ---- finish ---- */

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text == NULL ? "" : text;
}

static void finish_ready(const json_t *result, struct answer *out)
{
    const json_t *queue = json_object_get(result, "queue");
    const json_t *verdict = json_object_get(result, "verdict");
    struct trouble t;
    bool accepting = json_is_true(json_object_get(queue, "accepting"));
    trouble_set(&t, accepting ? 200 : 503, "", text_of(verdict, "sentence"),
                text_of(verdict, "hint"));
    answer_trouble(out, ANSWER_FORM_TEXT, &t);
}

/* A scrape always gets its 200: that the daemon is down is a value, not a failed scrape. */
static void finish_metrics(const struct route *route, const json_t *result, struct answer *out)
{
    static const char up[] = "# HELP tasuki_up Whether the daemon answers.\n"
                             "# TYPE tasuki_up gauge\n"
                             "tasuki_up ";
    const char *text = text_of(result, "text");
    const char *gap = text[0] == '\0' || text[strlen(text) - 1] == '\n' ? "" : "\n";
    char *body = NULL;
    int len = asprintf(&body, "%s%s%s%d\n", text, gap, up, result != NULL ? 1 : 0);
    CHECK(len > 0);
    *out = (struct answer){
        .status = 200, .type = route->type, .body = slice_of(body, (size_t)len), .owned = body};
}

static void finish_moves(const json_t *result, struct answer *out)
{
    static const char *const keys[] = {"schema", "id", "in", "moves", "moves_left_out"};
    json_t *moves = json_object();
    CHECK(moves != NULL);
    for (size_t index = 0; index < sizeof keys / sizeof keys[0]; index++) {
        json_t *value = json_object_get(result, keys[index]);
        if (value != NULL) {
            json_object_set(moves, keys[index], value);
        }
    }
    answer_json(out, 200, moves);
    json_decref(moves);
}

/* The daemon's words are for somebody at a shell; here it is this process that it turned away. */
static void finish_denied(const struct trouble *trouble, struct answer *out)
{
    struct trouble t;
    trouble_set(&t, trouble->status, trouble->code,
                "the daemon shows dialogues to root and to its own user only, and tasuki-web runs "
                "as neither",
                "sudo tasukictl show --transcript ID");
    answer_trouble(out, ANSWER_FORM_JSON, &t);
}

void route_finish(const struct route *route, const json_t *result, const struct trouble *trouble,
                  struct answer *out)
{
    if (route->shape == SHAPE_METRICS) {
        finish_metrics(route, result, out);
    } else if (result == NULL && trouble->status == 403 && route->command == COMMAND_TRANSCRIPT) {
        finish_denied(trouble, out);
    } else if (result == NULL) {
        answer_trouble(out, form_of(slice_from_str(route->path)), trouble);
    } else if (route->shape == SHAPE_READY) {
        finish_ready(result, out);
    } else if (route->shape == SHAPE_MOVES) {
        finish_moves(result, out);
    } else {
        answer_json(out, 200, result);
    }
}
