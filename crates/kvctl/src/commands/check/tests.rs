use super::*;

fn told(figures: &Figures, load: Load) -> (Outcome, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let outcome = verdict(
        figures,
        load,
        &mut Streams {
            out: &mut out,
            err: &mut err,
        },
    );
    (outcome, String::from_utf8(out).expect("text"))
}

#[test]
fn loads_go_by_short_and_long_names() {
    for (short, long, rate, clients) in [
        ("s", "small", 150, 50),
        ("m", "medium", 1_000, 200),
        ("l", "large", 8_000, 500),
        ("xl", "xLarge", 15_000, 1_000),
    ] {
        let load = Load::named(short).expect(short);
        assert_eq!((load.rate, load.clients), (rate, clients));
        assert_eq!(Load::named(long), Ok(load));
    }
    assert_eq!(
        Load::named("bogus"),
        Err(Failure::bad_feature("unknown load option bogus"))
    );
}

#[test]
fn a_cluster_that_keeps_up_passes() {
    let load = Load {
        rate: 100,
        clients: 1,
        duration: Duration::from_secs(1),
    };
    let figures = Figures {
        seconds: vec![0.01; 100],
        total: 1.0,
        ..Default::default()
    };
    let (outcome, text) = told(&figures, load);
    assert_eq!(outcome, Ok(()));
    assert_eq!(
        text,
        "PASS: Throughput is 101 writes/s\nPASS: Slowest request took 0.010000s\n\
         PASS: Stddev is 0.000000s\nPASS\n"
    );
}

#[test]
fn a_cluster_that_does_not_keep_up_fails() {
    let load = Load {
        rate: 100,
        clients: 1,
        duration: Duration::from_secs(1),
    };
    let errors = BTreeMap::from([("etcdserver: no leader".to_owned(), 3)]);
    let figures = Figures {
        seconds: vec![0.0, 0.6],
        errors,
        total: 1.0,
    };
    let (outcome, text) = told(&figures, load);
    assert_eq!(outcome, Err(Failure::silent(1)));
    assert_eq!(
        text,
        "FAIL: too many errors\nFAIL: ERROR(etcdserver: no leader) -> 3\n\
         FAIL: Throughput too low: 3 writes/s\nSlowest request took too long: 0.600000s\n\
         Stddev too high: 0.300000s\nFAIL\n"
    );
}
