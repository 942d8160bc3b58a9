//! Stage 1a, Self-Instruct (arXiv 2212.10560 in the paper's form): the model continues a list of seed tasks.
//!
//! Every request shows other seeds; what the model wrote is never shown, but new tasks are compared with it. Groups
//! know nothing of each other. Replies are judged in the order of their numbers, so that neither the batch nor an
//! interruption changes what is kept.

use rand::seq::index::sample;
use savi_judge::order::seeded_rng;
use savi_judge::rouge::Pool;
use savi_run::{Progress, Stage};
use savi_schema::SCHEMA_VERSION;

use crate::ask::{Asker, Reply, finish, unending};
use crate::records::{AskedTasks, Counters, Dropped, count};
use crate::{Data, Error, Prompts, SeedTask, SelfInstruct, tasks};

const STAGE: &str = "self-instruct";

/// A group on its way.
struct Group {
    number: usize,
    /// Seeds and kept tasks.
    pool: Pool,
    kept: usize,
    /// The next request.
    next: usize,
}

impl Group {
    fn is_done(&self, config: &SelfInstruct) -> bool {
        self.kept >= config.target || self.next >= config.most_requests
    }
}

/// The requests of all groups with the tasks that were read, and what was counted.
pub(crate) fn instruct(
    asker: &Asker<'_>,
    config: &SelfInstruct,
    data: &Data,
    prompts: &Prompts,
) -> Result<(Vec<AskedTasks>, Counters), Error> {
    let key = asker.key(STAGE).with("config", config).with("seeds", &data.seeds);
    let key = key.with("prompts", &prompts.key());
    let mut stage: Stage<AskedTasks> = asker.stage("01-self-instruct", &key)?;
    if !stage.is_finished() {
        let seeds = || Pool::new(data.seeds.iter().map(|seed| seed.instruction.as_str()));
        let group = |number| Group { number, pool: seeds(), kept: 0, next: 0 };
        let mut groups: Vec<Group> = (0..config.groups).map(group).collect();
        let total = (config.groups * config.target) as u64;
        let mut progress = Progress::new("writing tasks", total);
        while groups.iter().any(|group| !group.is_done(config)) {
            round(asker, config, data, prompts, &mut groups, &mut stage)?;
            let kept: usize = groups.iter().map(|group| group.kept.min(config.target)).sum();
            let asked: usize = groups.iter().map(|group| group.next).sum();
            progress.note(format!("{asked} requests"));
            progress.set(kept as u64);
        }
        progress.finish();
    }
    finish(stage, STAGE, |asked| counters(asked, config))
}

/// The next requests of every group that is not done.
fn round(
    asker: &Asker<'_>,
    config: &SelfInstruct,
    data: &Data,
    prompts: &Prompts,
    groups: &mut [Group],
    stage: &mut Stage<AskedTasks>,
) -> Result<(), Error> {
    let active = groups.iter().filter(|group| !group.is_done(config)).count();
    let share = (asker.at_once / active.max(1)).max(1);
    let mut asked = Vec::new();
    let mut wanted = Vec::new();
    for group in groups.iter().filter(|group| !group.is_done(config)) {
        for number in (group.next..config.most_requests).take(share) {
            let id = format!("{:03}/{number:06}", group.number);
            let shown = shown(asker.seed, &id, data.seeds.len(), config.in_context);
            if !stage.has(&id) {
                let seeds: Vec<&SeedTask> = shown.iter().map(|&at| &data.seeds[at]).collect();
                wanted.push((id.clone(), prompts.instructions(&seeds, config.tasks)?));
            }
            asked.push((group.number, id, shown));
        }
    }
    let sampling = unending(&config.sampling, config.forbid_end);
    let mut replies = Vec::new();
    // More groups than fit in a call.
    while !wanted.is_empty() {
        let rest = wanted.split_off(wanted.len().min(asker.at_once));
        replies.extend(asker.draw(STAGE, std::mem::replace(&mut wanted, rest), &sampling)?);
    }
    let mut replies = replies.into_iter();
    for (number, id, shown) in asked {
        let group = &mut groups[number];
        let is_new = !stage.has(&id);
        let reply = if is_new { replies.next() } else { None };
        if group.is_done(config) {
            continue;
        }
        let judged = stage.run(&[id.as_str()], |_| {
            let reply = reply.ok_or(Error::WrongCount { stage: STAGE, asked: 1, got: 0 })?;
            Ok::<_, Error>(vec![vec![judge(&id, shown, reply, config, &mut group.pool)]])
        })?;
        for task in judged.iter().flatten().flat_map(|asked| &asked.tasks) {
            if task.dropped.is_none() {
                group.kept += 1;
                if !is_new {
                    group.pool.push(&task.instruction);
                }
            }
        }
        group.next += 1;
    }
    Ok(())
}

/// Which seeds a request shows.
fn shown(seed: u64, id: &str, seeds: usize, count: usize) -> Vec<usize> {
    let mut rng = seeded_rng(seed, &[STAGE, "shown", id]);
    sample(&mut rng, seeds, count.min(seeds)).into_vec()
}

/// Reads a reply and says of each task whether it is kept; those that are go into the pool.
fn judge(
    id: &str,
    shown: Vec<usize>,
    reply: Reply,
    config: &SelfInstruct,
    pool: &mut Pool,
) -> AskedTasks {
    let mut read = tasks::parse(&reply.text, shown.len() + 1, reply.cut);
    for task in read.iter_mut().filter(|task| task.dropped.is_none()) {
        task.dropped = tasks::fault(&task.instruction, &task.input, config);
        if task.dropped.is_some() {
            continue;
        }
        let similarity = pool.compare(&task.instruction);
        task.similarity = Some([similarity.most, similarity.mean]);
        if similarity.most > config.most_similar {
            task.dropped = Some(Dropped::Similar);
        } else {
            pool.push(&task.instruction);
        }
    }
    let Reply { text: raw, cut } = reply;
    AskedTasks { schema: SCHEMA_VERSION, id: id.to_owned(), shown, raw, cut, tasks: read }
}

fn counters(asked: &[AskedTasks], config: &SelfInstruct) -> Counters {
    let mut counters = count(asked.iter().flat_map(|asked| &asked.tasks).map(|task| task.dropped));
    let mut kept = vec![0; config.groups];
    for asked in asked {
        let group = asked.id.split('/').next().and_then(|group| group.parse::<usize>().ok());
        if let Some(kept) = group.and_then(|group| kept.get_mut(group)) {
            *kept += asked.tasks.iter().filter(|task| task.dropped.is_none()).count();
        }
    }
    let short = kept.iter().filter(|&&kept| kept < config.target).count();
    counters.insert("requests".to_owned(), asked.len() as u64);
    counters.insert("groups-below-target".to_owned(), short as u64);
    counters
}
