use super::*;

#[test]
fn the_defaults_are_the_papers() {
    let config = Config::default();
    config.validate().unwrap();
    let Config { self_instruct: tasks, align, verbose, .. } = &config;
    assert_eq!(
        (tasks.groups * tasks.target, tasks.in_context, tasks.blacklist.len()),
        (262_144, 5, 18)
    );
    assert_eq!(
        (align.sampling.temperature, align.sampling.top_p, align.sampling.max_tokens),
        (0.5, 0.9, 256)
    );
    assert_eq!(verbose.penalised().ngram_penalties, [(3, 1.0), (4, 2.0)].into());
}

#[test]
fn what_cannot_be_carried_out_is_refused_by_key() {
    let check = |change: fn(&mut Config), key: &str| {
        let mut config = Config::default();
        change(&mut config);
        let problem = config.validate().unwrap_err().to_string();
        assert!(problem.contains(key), "{problem}");
    };
    check(|c| c.stages.clear(), "stages");
    check(|c| c.stages.reverse(), "order");
    check(|c| c.stages = vec![StageName::Align], "queries");
    check(|c| c.stages = vec![StageName::Engrave], "rows");
    check(|c| c.stages.retain(|&stage| stage != StageName::Engrave), "clone needs engrave");
    check(|c| c.rows = Some("x".into()), "rows");
    check(|c| c.requests_at_once = 0, "requests_at_once");
    check(|c| c.self_instruct.most_words = 3, "least_words");
    check(|c| c.self_instruct.most_similar = 1.5, "most_similar");
    check(|c| c.align.sampling.top_p = 0.0, "align.sampling: top_p");
    check(|c| c.align.blacklist.push(" ".to_owned()), "align.blacklist");
    check(|c| c.persona.user.clear(), "persona.user");
    check(|c| c.align.ban = f64::INFINITY, "align.ban");
    check(|c| c.verbose.most_items = 0, "most_items");
}
