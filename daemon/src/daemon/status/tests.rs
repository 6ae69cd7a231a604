//! Requests, and what is shown.

use super::Status;
use crate::http::{Ask, ControlVerb, Refusal, Scope, StatusSource, What};
use crate::metrics::Metrics;
use squire_engine::clock::SystemClock;
use squire_engine::error::Error;
use std::sync::Arc;

fn status() -> Status {
    let clock = Arc::new(SystemClock::default());
    Status::new(Metrics::new().unwrap(), clock)
}

fn what(store: Option<&str>, table: Option<&str>) -> What {
    What {
        store: store.map(str::to_owned),
        table: table.map(str::to_owned),
        ..What::default()
    }
}

fn ask(verb: ControlVerb, store: Option<&str>, table: Option<&str>) -> Ask {
    let what = what(store, table);
    Ask { verb, what }
}

#[test]
fn a_request_reaches_the_store_and_the_table_that_it_names() {
    let status = status();
    status.watches(vec!["/lake/a".into(), "/lake/b".into()]);
    status.unreadable("/lake/a", "t.lance", &Error::internal("bad"));
    let recover = ask(ControlVerb::Recover, Some("/lake/a/"), None);
    assert!(status.request(recover.clone()).is_ok());
    assert!(recover.what.is_about("/lake/a") && !recover.what.is_about("/lake/b"));
    let as_watched = ask(ControlVerb::Recover, Some("/lake/a"), None);
    assert_eq!(status.take_requests(), [as_watched]);

    let optimize = |store, table| status.request(ask(ControlVerb::Optimize, store, table));
    assert!(optimize(None, Some("t")).is_ok());
    assert!(optimize(Some("/lake/a"), Some("t.lance")).is_ok());
    for (store, table) in [
        (Some("/lake/c"), None),
        (Some("/lake/b"), Some("t")),
        (None, Some("u")),
    ] {
        let refused = optimize(store, table).unwrap_err();
        assert!(matches!(refused, Refusal::Unknown(_)), "{refused:?}");
    }
    // Of a directory one table can be cleaned, of a store all together.
    let cleanup = |table| status.request(ask(ControlVerb::Cleanup, Some("/lake/a"), table));
    assert!(cleanup(Some("t")).is_ok());
    status.note_store("/lake/a");
    assert!(matches!(cleanup(Some("t")), Err(Refusal::Wrong(_))));
    assert!(cleanup(None).is_ok() && optimize(Some("/lake/a"), Some("t")).is_ok());
}

/// Who asks stands in another directory than the daemon.
#[test]
fn a_location_has_one_name_however_it_is_asked_for() {
    let status = status();
    status.watches(vec!["lake".into()]);
    let there = std::env::current_dir().unwrap().join("lake");
    for name in ["lake", "./lake/", there.to_str().unwrap()] {
        let recover = ask(ControlVerb::Recover, Some(name), None);
        status.request(recover).unwrap();
        let asked = status.take_requests();
        assert_eq!(asked, [ask(ControlVerb::Recover, Some("lake"), None)]);
    }
}

#[test]
fn what_is_paused_is_shown_with_its_reason_until_it_is_resumed() {
    let status = status();
    status.watches(vec!["/lake/a".into()]);
    status.unreadable("/lake/a", "t.lance", &Error::internal("bad"));
    let pause = Ask {
        verb: ControlVerb::Pause,
        what: What {
            kind: Some("optimize".to_owned()),
            reason: Some("an audit".to_owned()),
            ..what(Some("/lake/a"), Some("t"))
        },
    };
    let answer = status.request(pause).unwrap();
    assert_eq!(answer["survives_restart"], false);
    let shown = status.status(&Scope::All)["pauses"].clone();
    assert_eq!(shown[0]["reason"], "an audit");
    assert_eq!(shown[0]["kind"], "compact");
    assert_eq!(
        status.status(&Scope::All)["paused"],
        false,
        "only part of it is"
    );
    let unknown = status.request(ask(ControlVerb::Pause, None, Some("u")));
    assert!(matches!(unknown, Err(Refusal::Unknown(_))));

    status.request(ask(ControlVerb::Pause, None, None)).unwrap();
    assert_eq!(status.status(&Scope::All)["paused"], true);
    let answer = status.request(ask(ControlVerb::Resume, Some("/lake/a"), None));
    let answer = answer.unwrap();
    assert_eq!(answer["lifted"].as_array().unwrap().len(), 1);
    // All of it is paused still, of which the store is a part.
    assert_eq!(answer["still_paused_by"].as_array().unwrap().len(), 1);
    status
        .request(ask(ControlVerb::Resume, None, None))
        .unwrap();
    assert!(status.pauses().is_empty());
}

#[test]
fn a_verb_takes_what_it_can_obey() {
    let status = status();
    let kind = |verb, kind: &str| Ask {
        verb,
        what: What {
            kind: Some(kind.to_owned()),
            ..What::default()
        },
    };
    let attempt = |verb| Ask {
        verb,
        what: What {
            attempt: Some(1),
            ..What::default()
        },
    };
    let reason = What {
        reason: Some("why".to_owned()),
        ..What::default()
    };
    for wrong in [
        kind(ControlVerb::Optimize, "optimize"),
        kind(ControlVerb::Drain, "optimize"),
        attempt(ControlVerb::Pause),
        kind(ControlVerb::Pause, "vacuum"),
        ask(ControlVerb::Drain, Some("/lake/a"), None),
        Ask {
            verb: ControlVerb::Cancel,
            what: reason,
        },
    ] {
        let refused = status.request(wrong.clone());
        assert!(matches!(refused, Err(Refusal::Wrong(_))), "{wrong:?}");
    }
    let unknown = status.request(attempt(ControlVerb::Cancel));
    assert!(matches!(unknown, Err(Refusal::Unknown(_))));
    assert!(status.take_requests().is_empty());
}

#[test]
fn a_table_that_cannot_be_read_is_shown_as_such() {
    let status = status();
    status.unreadable("/lake", "t.lance", &Error::internal("bad"));
    let shown = status.status(&Scope::All)["stores"][0]["tables"][0].clone();
    assert_eq!(
        (&shown["table"], &shown["state"]),
        (&"t.lance".into(), &"unreadable".into())
    );
    let series = "squire_unreadable{store=\"/lake\",table=\"t.lance\"} 1";
    assert!(status.metrics().contains(series));
    status.retain("/lake", &[], Vec::new());
    assert!(!status.metrics().contains("squire_unreadable{"));
}

#[test]
fn a_scope_sees_what_is_within_it_and_no_other_name() {
    let status = status();
    status.watches(vec!["/lake/a".into(), "/lake/b".into()]);
    for (store, table) in [
        ("/lake/a", "t.lance"),
        ("/lake/a", "u.lance"),
        ("/lake/b", "v.lance"),
    ] {
        status.unreadable(store, table, &Error::internal("bad"));
        let pause = ask(ControlVerb::Pause, Some(store), Some(table));
        status.request(pause).unwrap();
    }
    let of_all = ask(ControlVerb::Pause, None, Some("v.lance"));
    status.request(of_all).unwrap();
    status.location_unreadable("/lake/a", Some("of all of a".into()));
    let within = |scope: Scope, seen: &[&str], hidden: &[&str]| {
        let shown = status.status(&scope);
        let text = shown.to_string();
        for name in seen {
            assert!(text.contains(name), "{scope:?} sees {name}: {shown:#}");
        }
        for name in hidden {
            assert!(!text.contains(name), "{scope:?} sees no {name}: {shown:#}");
        }
        shown
    };
    let (a, t) = ("/lake/a".to_owned(), "t".to_owned());
    let all = within(
        Scope::All,
        &["/lake/a", "/lake/b", "t.lance", "v.lance"],
        &[],
    );
    let hidden = ["/lake/b", "v.lance"];
    let of_a = Scope::Location("/lake/a/".into());
    let of_a = within(
        of_a,
        &["/lake/a", "t.lance", "u.lance", "of all of a"],
        &hidden,
    );
    assert_eq!(of_a["pauses"].as_array().map(Vec::len), Some(2));
    let of_t = Scope::Table {
        location: a,
        table: t,
    };
    let hidden = ["/lake/b", "v.lance", "u.lance", "of all of a"];
    let of_t = within(of_t, &["/lake/a", "t.lance"], &hidden);
    assert_eq!(of_t["pauses"].as_array().map(Vec::len), Some(1));
    for shown in [&of_a, &of_t] {
        let names = |of: &serde_json::Value| of.as_object().unwrap().keys().cloned().collect();
        let (names, all): (Vec<String>, Vec<String>) = (names(shown), names(&all));
        let new = names.iter().filter(|name| !all.contains(name));
        assert_eq!(new.collect::<Vec<_>>(), ["scope"]);
        assert_eq!(shown["last_errors"].as_array().map(Vec::len), Some(0));
    }
}

#[test]
fn an_attempt_is_cancelled_by_who_may_see_it() {
    use crate::decide::{planning::OperationKind, work::Trigger};
    let status = status();
    status.watches(vec!["/lake/a".into(), "/lake/b".into()]);
    status.doing(vec![super::Doing {
        attempt: 7,
        location: "/lake/b".into(),
        table: "v".into(),
        kind: OperationKind::Compact,
        reason: "fragments".into(),
        what: "compact v".into(),
        trigger: Trigger::Threshold,
        seconds: 1,
        progress: Default::default(),
        steps: 1,
        stopping: None,
    }]);
    let cancel = |store: &str| {
        let mut ask = ask(ControlVerb::Cancel, Some(store), None);
        ask.what.attempt = Some(7);
        status.request(ask)
    };
    assert!(matches!(cancel("/lake/a"), Err(Refusal::Unknown(_))));
    assert!(cancel("/lake/b").is_ok());
    let of_a = status.status(&Scope::Location("/lake/a".into()));
    assert_eq!(
        (&of_a["doing"], &of_a["attempts"]),
        (&"idle".into(), &serde_json::json!([]))
    );
}
