//! The task machine against a model of it: any sequence of calls leaves both in the same state,
//! also across restarts.

use crate::common::{Registry, at, deploy, image, is_conflict, is_missing, mac, report_of, seen};
use bugler_model::{DeviceId, Image, Netboot, Progress, TaskId, TaskState};
use bugler_store::{Store, TaskFilter, TaskReport};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Call {
    Create(u64),
    Claim(u64),
    /// By this device, on the task this far from the latest.
    Report(u64, u64, TaskState, u64),
    Cancel(u64),
    Restart,
}

fn state() -> impl Strategy<Value = TaskState> {
    use TaskState::{Cancelled, Claimed, Done, Failed, Queued, Running, Verifying};
    prop::sample::select(vec![
        Queued, Claimed, Running, Running, Running, Verifying, Verifying, Done, Failed, Cancelled,
    ])
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        3 => (1..=2_u64).prop_map(Call::Create),
        4 => (1..=2_u64).prop_map(Call::Claim),
        12 => (1..=2_u64, 0..3_u64, state(), any::<u64>())
            .prop_map(|(device, back, state, done)| Call::Report(device, back, state, done)),
        1 => (0..3_u64).prop_map(Call::Cancel),
        1 => Just(Call::Restart),
    ]
}

#[derive(Clone, Debug, PartialEq)]
struct ModelTask {
    id: u64,
    device: u64,
    state: TaskState,
    attempts: u32,
    done: u64,
}

#[derive(Default)]
struct Model {
    tasks: Vec<ModelTask>,
    netboot: [Netboot; 3],
}

impl Model {
    fn open(&mut self, device: u64) -> Option<&mut ModelTask> {
        self.tasks
            .iter_mut()
            .find(|task| task.device == device && task.state.is_open())
    }

    fn back(&self, back: u64) -> u64 {
        (self.tasks.len() as u64).saturating_sub(back)
    }
}

async fn play(calls: Vec<Call>) -> Result<(), TestCaseError> {
    let mut registry = Registry::new();
    let mut model = Model::default();
    for device in [1, 2] {
        prop_assert_eq!(
            seen(&registry, mac(device), None).await.id,
            DeviceId(device.into())
        );
    }
    let image = image(&registry, "debian-12").await;
    for (now, call) in (10..).zip(calls) {
        step(&mut registry, &mut model, &image, &call, now).await?;
        compare(&registry, &model, &call).await?;
    }
    Ok(())
}

async fn step(
    registry: &mut Registry,
    model: &mut Model,
    image: &Image,
    call: &Call,
    now: i64,
) -> Result<(), TestCaseError> {
    match *call {
        Call::Create(device) => {
            let made = registry
                .create_tasks(vec![deploy(DeviceId(device), image)], at(now))
                .await;
            if model.open(device).is_some() {
                prop_assert!(is_conflict(&made), "{:?}", made);
            } else {
                let id = model.tasks.len() as u64 + 1;
                prop_assert_eq!(made.unwrap()[0].id, TaskId(id));
                let state = TaskState::Queued;
                model.tasks.push(ModelTask {
                    id,
                    device,
                    state,
                    attempts: 0,
                    done: 0,
                });
            }
        }
        Call::Claim(device) => {
            let claimed = registry
                .claim_task(DeviceId(device), at(now))
                .await
                .unwrap();
            let expected = model.open(device).map(|task| {
                task.state = TaskState::Claimed;
                task.attempts += 1;
                task.id
            });
            prop_assert_eq!(claimed.map(|task| task.id.0), expected);
        }
        Call::Report(device, back, state, done) => {
            let id = model.back(back);
            let progress = Progress {
                done,
                ..Progress::default()
            };
            let report = TaskReport {
                progress,
                ..report_of(DeviceId(device), TaskId(id), state)
            };
            let said = registry.report_task(report, at(now)).await;
            let Some(task) = model
                .tasks
                .iter_mut()
                .find(|t| t.id == id && t.device == device)
            else {
                prop_assert!(is_missing(&said), "{:?}", said);
                return Ok(());
            };
            if task.state.is_open() {
                let Ok(next) = task.state.step(state) else {
                    prop_assert!(is_conflict(&said), "{:?}", said);
                    return Ok(());
                };
                let changed = next != task.state;
                task.state = next;
                task.done = done;
                let netboot = &mut model.netboot[device as usize];
                match next {
                    TaskState::Running | TaskState::Verifying if changed => *netboot = Netboot::On,
                    TaskState::Done => *netboot = Netboot::Off,
                    _ => {}
                }
            }
            let said = said.unwrap();
            prop_assert_eq!((said.state, said.progress.done), (task.state, task.done));
        }
        Call::Cancel(back) => {
            let id = model.back(back);
            let said = registry.cancel_task(TaskId(id), "operator", at(now)).await;
            match model.tasks.iter_mut().find(|task| task.id == id) {
                None => prop_assert!(is_missing(&said), "{:?}", said),
                Some(task) if !task.state.is_open() => {
                    prop_assert!(is_conflict(&said), "{:?}", said);
                }
                Some(task) => {
                    task.state = TaskState::Cancelled;
                    prop_assert_eq!(said.unwrap().state, TaskState::Cancelled);
                }
            }
        }
        Call::Restart => registry.restart(),
    }
    Ok(())
}

async fn compare(registry: &Registry, model: &Model, call: &Call) -> Result<(), TestCaseError> {
    let listed = registry
        .tasks(TaskFilter {
            limit: 999,
            ..Default::default()
        })
        .await
        .unwrap();
    let mut found = Vec::new();
    for task in listed.iter().rev() {
        prop_assert_eq!(
            &registry.task(task.id).await.unwrap(),
            task,
            "after {:?}",
            call
        );
        found.push(ModelTask {
            id: task.id.0,
            device: task.device.0,
            state: task.state,
            attempts: task.attempts,
            done: task.progress.done,
        });
    }
    prop_assert_eq!(&found, &model.tasks, "after {:?}", call);
    for device in [1, 2] {
        let known = registry.device(DeviceId(device)).await.unwrap();
        let open = model
            .tasks
            .iter()
            .filter(|t| t.device == device && t.state.is_open())
            .count();
        prop_assert_eq!(known.open_tasks as usize, open, "after {:?}", call);
        prop_assert_eq!(
            known.netboot,
            model.netboot[device as usize],
            "after {:?}",
            call
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_registry_and_the_model_agree(calls in prop::collection::vec(call(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(play(calls))?;
    }
}
