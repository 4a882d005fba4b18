/*
 * A queue in which something is damaged: what is sound is not lost with it. The damage is written
 * with LMDB itself, or into the file while it is in use.
 */
#include "tests/unit/store_fixture.h"
#include "tests/unit/store_raw.h"

/* Message 1, as it is put here. */
#define BODY_BYTES 100000u

static struct slice id_key(uint64_t n)
{
    static struct msg_id id;
    id = id_of(n);
    return slice_of(id.bytes, MSG_ID_BYTES);
}


/*
 * ---- the list of bodies being received ----
 */

static void intake_of_a_message(struct raw *r)
{
    raw_put(r, "intake", id_key(1), SLICE("no entry at all"));
}

static void test_a_stale_entry_in_the_list_does_not_take_the_body_of_its_message(void **state)
{
    struct fixture *f = *state;
    queue_open(f);
    message_commit(f, 1, BODY_BYTES, &plain);
    assert_int_equal(store_begin(f->store), ERR_OK);
    body_append(f, 2, BODY_BYTES, 0); /* and another one is really on the list */
    assert_int_equal(store_commit(f->store), ERR_OK);
    queue_close(f);
    raw_do(f->directory, intake_of_a_message);
    queue_open(f);
    assert_int_equal(f->report.discarded, 1);
    assert_int_equal(message_read(f->reader, 1), ERR_OK);
    assert_int_equal(body_read(f->reader, 1, BODY_BYTES, 65536), ERR_OK);
    queue_check(f, false);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_a_stale_entry_in_the_list_does_not_take_the_body_of_its_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
