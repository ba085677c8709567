//! Bans that hold on all nodes.

use super::*;

#[test]
fn a_ban_on_one_node_holds_on_the_other_and_ends_sessions_there() {
    let redis = Redis::start();
    let nodes = Nodes::sharing(&redis, "");
    let (mut there, mut other) = (nodes.log_in(1, 7), nodes.log_in(1, 8));
    let began = Instant::now();
    let said = well(operate(&nodes.nodes[0], &["ban", "127.0.0.7"]));
    assert!(said.contains("0 sessions were ended"), "{said}");
    there.expect_close();
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    other.ask("n NOOP", "n OK backend NOOP");
    nodes.nodes[1].wait_for_log("another node has banned 127.0.0.7/32; 1 sessions were ended");
    assert!(!nodes.lets_in(1, 7) && nodes.lets_in(1, 8));

    well(operate(&nodes.nodes[1], &["ban", "127.0.1.0/24", "1h"]));
    until_true("it is listed on the first node", PATIENCE, || {
        let listed = json(&well(operate(&nodes.nodes[0], &["bans", "--json"])));
        let bans = listed.as_array().expect("an array").clone();
        bans.iter().any(|ban| {
            let left = ban["left"].as_u64().unwrap_or_default();
            ban["address"] == "127.0.1.0/24" && (3500..=3600).contains(&left)
        })
    });
    // Lifted where it was not made.
    well(operate(&nodes.nodes[1], &["unban", "127.0.0.7"]));
    until_true("it is lifted", PATIENCE, || nodes.lets_in(0, 7));
    // What is emptied is filled again.
    redis.ask(&["FLUSHALL"]);
    until_true("the ban is there again", PATIENCE, || {
        redis.ask(&["ZRANGE", "postern:bans", "0", "-1"]) == ["127.0.1.0/24"]
    });
    assert!(nodes.lets_in(0, 7));
    assert_eq!(code(&operate(&nodes.nodes[0], &["unban", "127.0.0.7"])), 1);
    nodes.stop();
}

#[test]
fn a_ban_is_told_when_the_store_is_back() {
    let redis = Redis::start();
    let nodes = Nodes::sharing(&redis, "");
    let port = redis.kill();
    for node in &nodes.nodes {
        node.wait_for_log("this node counts alone until it is back");
    }
    let status = operate(&nodes.nodes[0], &["status", "--json"]);
    assert_eq!(code(&status), 1);
    let status = &json(&String::from_utf8_lossy(&status.stdout))["status"];
    assert_eq!(status["limits_store"]["in_use"], false);
    assert!(
        status["problems"][0]
            .as_str()
            .is_some_and(|it| it.ends_with("counts alone"))
    );
    well(operate(&nodes.nodes[0], &["ban", "127.0.0.7"]));
    assert!(!nodes.lets_in(0, 7) && nodes.lets_in(1, 7));
    let _redis = Redis::start_with(port, None);
    until_true("it holds on the other node", PATIENCE, || {
        !nodes.lets_in(1, 7)
    });
    for log in nodes.stop() {
        assert_eq!(
            log.matches("counts alone until it is back").count(),
            1,
            "{log}"
        );
        assert_eq!(log.matches(": is back").count(), 1, "{log}");
    }
}

#[test]
fn a_store_full_of_bans_fills_no_more_than_there_is_room_for() {
    let redis = Redis::start();
    let nodes = Nodes::sharing(&redis, "");
    well(operate(&nodes.nodes[0], &["ban", "10.255.0.0/16"]));
    until_true("the store has its state", PATIENCE, || {
        redis.keys("postern:bans:state").len() == 1
    });
    let many = "for i = 1, 12000 do redis.call('ZADD', 'postern:bans', '+inf', \
                '10.1.' .. math.floor(i / 250) .. '.' .. i % 250 .. '/32') end \
                redis.call('ZADD', 'postern:bans', '+inf', 'nonsense') \
                return redis.call('HINCRBY', 'postern:bans:state', 'version', 1)";
    redis.ask(&["EVAL", many, "0"]);
    for node in &nodes.nodes {
        until_true("they are learned", PATIENCE, || {
            let listed = json(&well(operate(node, &["bans", "--json"])));
            listed
                .as_array()
                .is_some_and(|bans| (9_999..=10_000).contains(&bans.len()))
        });
    }
    assert!(nodes.lets_in(0, 7));
    for log in nodes.stop() {
        assert!(!log.contains("counts alone"), "{log}");
    }
}

#[test]
fn of_too_many_bans_those_without_end_hold() {
    let redis = Redis::start();
    let nodes = Nodes::sharing(&redis, "");
    well(operate(&nodes.nodes[0], &["ban", "127.0.0.7"]));
    until_true("it holds on the other node", PATIENCE, || {
        !nodes.lets_in(1, 7)
    });
    let many = "local t = redis.call('TIME') for i = 1, 12000 do \
                redis.call('ZADD', 'postern:bans', (t[1] + 3600) * 1000 + i, \
                '10.1.' .. math.floor(i / 250) .. '.' .. i % 250 .. '/32') end \
                return redis.call('HINCRBY', 'postern:bans:state', 'version', 1)";
    redis.ask(&["EVAL", many, "0"]);
    for (at, node) in nodes.nodes.iter().enumerate() {
        until_true("they are learned", PATIENCE, || {
            let listed = json(&well(operate(node, &["bans", "--json"])));
            listed.as_array().is_some_and(|bans| bans.len() == 10_000)
        });
        assert!(!nodes.lets_in(at, 7), "node {at} has forgotten it");
        assert!(nodes.lets_in(at, 8));
    }
    nodes.stop();
}

/// A session that waits for its auth server ends only after a moment: what that costs, it costs once.
#[test]
fn sessions_in_many_ranges_are_ended_at_once() {
    const MANY: u8 = 60;
    let redis = Redis::start();
    let nodes = Nodes::sharing(&redis, "");
    let waiting: Vec<_> = (1..=MANY)
        .map(|last| {
            let mut client = LineClient::connect_from([127, 0, 1, last], nodes.address(0));
            client.expect("* OK IMAP4 ready");
            client.send("a LOGIN alice stalled");
            client
        })
        .collect();
    until_true("their logins are being checked", PATIENCE, || {
        nodes.auth.requests().len() >= waiting.len()
    });
    let ban = format!(
        "for i = 1, {MANY} do redis.call('ZADD', 'postern:bans', '+inf', '127.0.1.' .. i .. '/32') end \
         return redis.call('HINCRBY', 'postern:bans:state', 'version', 1)"
    );
    redis.ask(&["EVAL", &ban, "0"]);
    // One after another they take 300 ms each.
    until_true("they are ended", Duration::from_secs(9), || {
        nodes.nodes[0].count(&format!("{MANY} sessions were ended")) > 0
    });
    let lines = nodes.nodes[0].lines_with("another node has banned");
    let more = format!("and {} more ranges; ", MANY - 1);
    assert!(lines.len() == 1 && lines[0].contains(&more), "{lines:?}");
    drop(waiting);
    nodes.stop();
}
