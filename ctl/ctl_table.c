/* Tables: the only home of libsmartcols here. */
#include "ctl/ctl.h"

#include "daemon/base/text.h"

#include <libsmartcols/libsmartcols.h>
#include <stdlib.h>

struct ctl_table {
    const struct ctl *c;
    const struct ctl_column *columns; /* borrowed, column_count of them */
    size_t column_count;
    size_t cell; /* the next one of the open line */
    struct libscols_table *table;
    struct libscols_line *line;
};

static bool is_shown(const struct ctl_table *t, size_t index)
{
    return t->c->width == 0 || t->c->width >= t->columns[index].from;
}

/* The same cell index for smartcols, which only has the columns that are shown. */
static size_t shown_index(const struct ctl_table *t, size_t index)
{
    size_t shown = 0;
    for (size_t before = 0; before < index; before++) {
        shown += is_shown(t, before) ? 1 : 0;
    }
    return shown;
}

struct ctl_table *ctl_table_new(const struct ctl *c, const struct ctl_column *columns,
                                size_t column_count, bool headed)
{
    struct ctl_table *t = calloc(1, sizeof *t);
    CHECK(t != NULL);
    *t = (struct ctl_table){.c = c, .columns = columns, .column_count = column_count};
    t->table = scols_new_table();
    CHECK(t->table != NULL);
    scols_table_enable_noencoding(t->table, 1); /* cells are escaped already */
    scols_table_enable_noheadings(t->table, headed ? 0 : 1);
    scols_table_enable_colors(t->table, c->colours ? 1 : 0);
    scols_table_set_column_separator(t->table, "  ");
    if (c->width > 0) {
        scols_table_set_termforce(t->table, SCOLS_TERMFORCE_ALWAYS);
        scols_table_set_termwidth(t->table, c->width);
    } else {
        scols_table_set_termforce(t->table, SCOLS_TERMFORCE_NEVER);
    }
    for (size_t index = 0; index < column_count; index++) {
        int flags = (columns[index].share > 0 ? SCOLS_FL_TRUNC : 0) |
                    (columns[index].right ? SCOLS_FL_RIGHT : 0);
        if (is_shown(t, index)) {
            CHECK(scols_table_new_column(t->table, columns[index].title, columns[index].share,
                                         flags) != NULL);
        }
    }
    return t;
}

void ctl_table_line(struct ctl_table *t)
{
    t->line = scols_table_new_line(t->table, NULL);
    t->cell = 0;
    CHECK(t->line != NULL);
}

void ctl_table_words(struct ctl_table *t, const char *text)
{
    CHECK(t->cell < t->column_count);
    size_t index = t->cell++;
    if (is_shown(t, index)) {
        CHECK(scols_line_set_data(t->line, shown_index(t, index), text) == 0);
    }
}

void ctl_table_cell(struct ctl_table *t, struct slice text, enum ctl_colour colour)
{
    static const char *const names[] = {[CTL_PLAIN] = NULL,
                                        [CTL_GOOD] = "green",
                                        [CTL_WARN] = "brown",
                                        [CTL_BAD] = "red",
                                        [CTL_STRONG] = "bold"};
    size_t cap = 4 * text.len + 1; /* escaping makes at most four bytes of one */
    char *memory = malloc(cap);
    CHECK(memory != NULL);
    struct buf b;
    buf_init(&b, memory, cap - 1);
    text_put_escaped(&b, text);
    memory[b.len] = '\0';
    size_t index = t->cell;
    ctl_table_words(t, memory);
    if (names[colour] != NULL && is_shown(t, index)) {
        struct libscols_cell *cell = scols_line_get_cell(t->line, shown_index(t, index));
        (void)scols_cell_set_color(cell, names[colour]);
    }
    free(memory);
}

void ctl_table_end(struct ctl_table **t)
{
    if (*t == NULL) {
        return;
    }
    if (scols_table_get_nlines((*t)->table) > 0) {
        (void)scols_print_table((*t)->table);
    }
    scols_unref_table((*t)->table);
    free(*t);
    *t = NULL;
}
