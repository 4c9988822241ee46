//! `dispatcher serve`: the pipeline, wired. The list below is the whole of it; a test holds it against the folders.
//!
//! ```text
//! events -> intake -> pass (schedule) -> route -> agent queues -> agents
//!                        ^                                          |
//!                        |                                          v
//!         sweep, presence +----------------- settle <------------ reports
//!
//! whatever is nacked -> dead_letters       what happened -> notify -> upstream
//! old rows -> retention                    api: /livez, /readyz, /metrics
//! ```

use std::sync::Arc;
use std::time::Duration;

use switchyard_common::broker::{ConnectionState, ConsumeConnection, Publisher, declare};
use switchyard_common::guard::{RestartPolicy, Supervisor};
use switchyard_common::shutdown::Shutdown;
use switchyard_common::task::Kinds;
use switchyard_common::telemetry::Metrics;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::config::Config;
use crate::context::Context;
use crate::pass::Assigner;
use crate::pass::Wake;
use crate::presence::replicas::Beats;
use crate::presence::settled::SharedSettled;
use crate::readiness::{Condition, Readiness, follow_broker, follow_database, follow_queues};
use crate::route::budget::InputsBudget;
use crate::route::run::Router;
use crate::store::route::Committed;
use crate::store::{Db, DbConfig, Plans, StoreError, growth, migrate};
use crate::{api, dead_letters, intake, notify, pass, presence, retention, settle, sweep};

/// Batches of committed assignments that may wait for routing: passes wait beyond.
const TO_ROUTE_MAX_COUNT: usize = 64;
/// Connections to the database that gauges may use, beside those of the pool.
const GAUGES_CONNECTIONS_MAX: usize = 1;
/// Time for the broker connections to close at the end.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Why the dispatcher does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This replica has no name for its own queue.
    #[error("replica id {0}")]
    Replica(#[from] switchyard_common::contract::ids::IdError),
    /// The broker settings are wrong.
    #[error("broker: {0}")]
    Broker(#[from] switchyard_common::broker::BrokerConfigError),
    /// The kinds are wrong.
    #[error(transparent)]
    Kinds(#[from] switchyard_common::task::KindError),
    /// A part gave up.
    #[error(transparent)]
    Part(#[from] switchyard_common::guard::SupervisorError),
}

/// Serves until shutdown: stops intake, finishes what is in hand, closes the connections, all bounded in time.
///
/// # Errors
/// When the schema is not known, the configuration cannot be used, or a part gives up.
pub async fn serve(config: Config, shutdown: Shutdown) -> Result<(), ServeError> {
    let context = connect(config)?;
    tracing::info!(replica = %context.replica, namespace = %context.namespace, "dispatcher serves");
    let (settled, assignments) = (context.settled.clone(), context.assignments.state());
    let beats = Beats::start(&context.db, settled, assignments, context.config.agent_lost_after);
    let ended = run_parts(&context, &shutdown).await;
    context.consumers.close(CLOSE_WAIT).await;
    let (closed, assignments_closed) =
        tokio::join!(context.publisher.close(CLOSE_WAIT), context.assignments.close(CLOSE_WAIT));
    if !closed || !assignments_closed {
        tracing::warn!(
            "some publishes were not confirmed in time; other replicas, or the next start, send them again"
        );
    }
    // Last: whoever takes over may send what this replica left unconfirmed, which its connections must not do any more.
    beats.end().await;
    tracing::info!("dispatcher has ended");
    ended
}

/// Prepares everything that the parts share. Connections come up in the background.
fn connect(config: Config) -> Result<Context, ServeError> {
    let replica = Uuid::new_v4();
    let db = Db::new(&DbConfig {
        plans: Plans::ByIndex,
        ..config.database(config.database_connections_max, replica)
    })?;
    let broker = config.broker(format!("switchyard-dispatcher {replica}"));
    let own = presence::run::topology(&config.namespace, replica)?;
    let topology = Arc::new(config.namespace.dispatcher_topology().and(own));
    let consumers = ConsumeConnection::start(
        &broker,
        "consume",
        Arc::new(move |session| {
            let topology = Arc::clone(&topology);
            Box::pin(async move { declare(&session, &topology).await })
        }),
    )?;
    Ok(Context {
        db,
        namespace: config.namespace.clone(),
        publisher: Publisher::start(&broker, "publish")?,
        assignments: Publisher::start(&broker, "assignments")?,
        consumers,
        wake: Wake::default(),
        kinds: Arc::new(Kinds::with_built_in(config.kinds.iter().cloned())?),
        config: Arc::new(config),
        readiness: Readiness::default(),
        settled: SharedSettled::default(),
        replica,
    })
}

async fn run_parts(context: &Context, shutdown: &Shutdown) -> Result<(), ServeError> {
    let mut parts = Supervisor::new(shutdown.clone());
    // Probes are answered from the first moment on; everything else waits until there is something to work with.
    supervise(&mut parts, "readiness", context, shutdown, follow_readiness);
    supervise_api(&mut parts, context, shutdown);
    if let Some(Err(error)) = shutdown.unless_requested(database_and_broker(context)).await {
        shutdown.trigger("the schema is not known");
        parts.run().await?;
        return Err(error.into());
    }
    let (to_route, handed_over) = mpsc::channel(TO_ROUTE_MAX_COUNT);
    supervise_routing(&mut parts, context, handed_over, shutdown);
    let assigner = Assigner {
        wake: context.wake.clone(),
        to_route: to_route.clone(),
        assignments: context.assignments.state(),
    };
    supervise(&mut parts, "pass", context, shutdown, move |context, shutdown| {
        pass::run::run(context.db, context.wake, to_route.clone(), context.assignments.state(), shutdown)
    });
    supervise(&mut parts, "listen", context, shutdown, |context, shutdown| {
        pass::listen::run(context.db, context.wake, shutdown)
    });
    supervise(&mut parts, "outcomes", context, shutdown, settle::outcomes::run);
    supervise(&mut parts, "starts", context, shutdown, settle::starts::run);
    supervise(&mut parts, "logs", context, shutdown, settle::logs::run);
    supervise(&mut parts, "notify", context, shutdown, notify::run::run);
    supervise(&mut parts, "retention", context, shutdown, retention::run);
    // It reads all that is open: not by an index, as the rest of the dispatcher's work.
    let questions = Db::new(&context.config.database(GAUGES_CONNECTIONS_MAX, context.replica))?;
    supervise(&mut parts, "gauges", context, shutdown, move |_, shutdown| {
        api::gauges::run(questions.clone(), shutdown)
    });
    supervise(&mut parts, "plans", context, shutdown, |context, shutdown| {
        growth::follow(context.db, shutdown)
    });
    supervise(&mut parts, "dead_letters", context, shutdown, dead_letters::run::run);
    supervise(&mut parts, "intake", context, shutdown, move |context, shutdown| {
        intake::run::run(context, assigner.clone(), shutdown)
    });
    supervise(&mut parts, "presence", context, shutdown, presence::run::run);
    supervise(&mut parts, "retire", context, shutdown, presence::retire::run);
    supervise(&mut parts, "sweep", context, shutdown, sweep::run::run);
    Ok(parts.run().await?)
}

/// Wait before the database is asked again at the start.
const START_WAIT: Duration = Duration::from_secs(1);

/// Waits until the database answers with a schema that is known, and the broker has the topology: to publish to an exchange before it
/// is declared would cut the connection.
///
/// # Errors
/// When the schema is older or newer than this program knows.
async fn database_and_broker(context: &Context) -> Result<(), StoreError> {
    while let Err(error) = migrate::verify(&context.db).await {
        if !error.is_transient() {
            return Err(error);
        }
        tracing::warn!(%error, "waiting for the database");
        tokio::time::sleep(START_WAIT).await;
    }
    let mut broker = context.consumers.state();
    // An error means that the connection was closed for good, which happens at shutdown only.
    let _ended = broker.wait_for(|state| matches!(state, ConnectionState::Up { .. })).await;
    Ok(())
}

/// Keeps the conditions of readiness up to date.
async fn follow_readiness(context: Context, shutdown: Shutdown) {
    let readiness = &context.readiness;
    tokio::join!(
        follow_broker(
            readiness.clone(),
            Condition::BrokerConsume,
            context.consumers.state(),
            shutdown.clone()
        ),
        follow_broker(
            readiness.clone(),
            Condition::BrokerPublish,
            context.publisher.state(),
            shutdown.clone()
        ),
        follow_broker(
            readiness.clone(),
            Condition::BrokerAssignments,
            context.assignments.state(),
            shutdown.clone()
        ),
        follow_queues(readiness.clone(), context.consumers.silent_queues(), shutdown.clone()),
        follow_database(readiness.clone(), context.db.clone(), shutdown.clone()),
    );
}

/// The HTTP server: an address that cannot be listened on ends the process loudly.
fn supervise_api(parts: &mut Supervisor, context: &Context, shutdown: &Shutdown) {
    // A recorder that is installed already belongs to somebody else, who renders it.
    let metrics = Metrics::install().ok();
    let tokens = context.config.http_tokens.clone();
    let (context, shutdown) = (context.clone(), shutdown.clone());
    parts.supervise("api", RestartPolicy::STANDARD, move || {
        let api = api::Api {
            readiness: context.readiness.clone(),
            metrics: metrics.clone(),
            db: context.db.clone(),
            tokens: tokens.clone(),
        };
        api::run(api, context.config.http_listen, shutdown.clone())
    });
}

/// A part that is started anew when it panics.
fn supervise<F>(
    parts: &mut Supervisor,
    name: &'static str,
    context: &Context,
    shutdown: &Shutdown,
    run: impl Fn(Context, Shutdown) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let (context, shutdown) = (context.clone(), shutdown.clone());
    parts.supervise(name, RestartPolicy::STANDARD, move || {
        let running = run(context.clone(), shutdown.clone());
        async move {
            running.await;
            Ok::<(), std::convert::Infallible>(())
        }
    });
}

/// Routing owns the receiving end of the passes' channel, so it cannot be started anew: a panic there ends the process loudly, and
/// what it had not published is taken over.
fn supervise_routing(
    parts: &mut Supervisor,
    context: &Context,
    handed_over: mpsc::Receiver<Vec<Committed>>,
    shutdown: &Shutdown,
) {
    let router = Router {
        db: context.db.clone(),
        namespace: context.namespace.clone(),
        publisher: context.assignments.clone(),
        wake: context.wake.clone(),
        inputs: InputsBudget::default(),
    };
    let mut handed_over = Some(handed_over);
    let shutdown = shutdown.clone();
    parts.supervise("route", RestartPolicy::NEVER, move || {
        let running = handed_over.take().map(|receiver| router.clone().run(receiver, shutdown.clone()));
        async move {
            match running {
                Some(running) => {
                    running.await;
                    Ok(())
                }
                None => Err("routing cannot be started twice"),
            }
        }
    });
}
