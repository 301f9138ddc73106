//! Mistakes that the simulator found, each with seeds that showed it. A change of what seeds stand for makes them ordinary
//! seeds again; then take new ones by putting the mistake back.

use fourfold_sim::{Scenario, run};

#[track_caller]
fn plays(seeds: &[u64]) {
    plays_in(Scenario::new, seeds);
}

#[track_caller]
fn plays_in(world: fn(u64) -> Scenario, seeds: &[u64]) {
    for seed in seeds {
        let failure = run(&world(*seed), None, 0).err();
        assert!(failure.is_none(), "{}", failure.map_or_else(String::new, |failure| failure.to_string()));
    }
}

/// Closed events of clients refused at accept named owner 0, which is the shard's first tunnel: it was counted out, and its
/// slot given on, while its socket was open.
#[test]
fn a_refused_client_is_not_taken_for_the_first_tunnel() {
    plays(&[24, 41, 76, 78, 124, 188]);
}

/// A client sent FIN and then RST: the tuple went back as clean while the kernel had it in TIME_WAIT.
#[test]
fn a_tuple_whose_fin_has_left_rests_though_the_tunnel_is_reset() {
    plays(&[4, 10, 17, 31, 38, 46]);
}

/// A drain past its deadline kept the deadline as the next time-out until the last socket was gone.
#[test]
fn a_drain_past_its_deadline_does_not_spin() {
    plays(&[1, 3, 8, 10, 17, 20]);
}

/// Two shards with waiting clients and nothing free told each other of something free, without a pause.
#[test]
fn shards_with_waiting_clients_do_not_wake_each_other_for_ever() {
    plays(&[76, 156, 170, 201, 207, 221]);
}

/// An idle tunnel was ended by FIN: half an answer looked whole, and bytes that the kernel still had were lost silently.
#[test]
fn an_idle_tunnel_is_reset_and_not_ended() {
    plays(&[0, 2, 5, 6, 9, 342, 592, 597, 610]);
}

/// A reader that took a full queue in small pieces, for longer than the idle time-out, was cut off.
#[test]
fn a_slow_reader_is_not_idle() {
    plays(&[88, 188, 238, 768, 941, 944]);
}

/// A pipelined request lay in the buffer that ended another's content, and there was no buffer to keep it in, or the content was
/// too large: it was dropped, and the connection went on behind it.
#[test]
fn a_request_that_cannot_be_kept_is_the_connections_last() {
    plays_in(Scenario::http, &[897, 1058, 11680, 13197]);
}

/// While a request's content was on its way no time-out of the server's side applied, not even if it took nothing, or
/// had begun to answer.
#[test]
fn an_upload_that_the_server_does_not_take_ends() {
    plays_in(Scenario::http, &[3781, 10058, 119_277]);
}

/// An attempt that failed for want of something local gave its lease back, which woke the next to fail the same way.
#[test]
fn a_missing_source_is_not_tried_without_end() {
    plays_in(Scenario::http, &[519, 711, 2980, 3624, 3626]);
}

/// A head that came in pieces, its last with so much content behind it that both filled a buffer, was taken for too large.
#[test]
fn content_behind_a_head_in_pieces_does_not_count_as_head() {
    plays_in(Scenario::http, &[31, 1119]);
}

/// With `max_requests`, a request that met something missing here gave its place to the next, which met the same.
#[test]
fn a_place_given_up_for_want_of_something_local_wakes_nobody() {
    plays_in(Scenario::edge, &[711, 1180, 3626]);
}
