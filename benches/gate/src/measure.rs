//! Makes the calls of a case and reports their cost.

use std::{
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use http::Response;
use http_body::Body;
use tokio::runtime::{Builder, Runtime};
use tower_service::Service;

use crate::system;

/// The cost of the calls of a case.
#[derive(Clone, Copy)]
pub struct Facts {
    pub allocations: u64,
    pub clock_reads: u64,
    /// The size of the future of a call, in bytes.
    pub future: usize,
    /// The size of the response, in bytes.
    pub response: usize,
}

/// The number of warm-up calls, which are not counted, and of the calls after them.
#[derive(Clone, Copy)]
pub struct Calls {
    pub first: u64,
    pub counted: u64,
}

/// The way in which the calls of a case end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    Well,
    Rejected,
}

impl Calls {
    /// Makes calls that end in the way `ends`, each polled by hand.
    pub fn to<S: Service<u64, Response = u64>>(self, mut service: S, ends: Ends) -> Facts {
        let runtime = runtime();
        let _timers = runtime.enter();
        let mut call = |number| {
            let future = called(&mut service, number);
            let future_size = size_of_val(&future);
            let result = black_box(finished(future));
            assert!(result.is_ok() == (ends == Ends::Well), "the call did not end as it should");
            Sizes { future: future_size, response: size_of::<S::Response>() }
        };
        self.facts(&mut call)
    }

    /// Makes HTTP calls, polled by hand, and reads each body to its end.
    pub fn over_http<S, Req, B>(self, mut service: S, request: fn(u64) -> Req) -> Facts
    where
        S: Service<Req, Response = Response<B>>,
        B: Body,
    {
        let runtime = runtime();
        let _timers = runtime.enter();
        let mut call = |number| {
            let future = called(&mut service, request(number));
            let future_size = size_of_val(&future);
            let Ok(response) = finished(future) else { panic!("the client responds") };
            let sizes = Sizes { future: future_size, response: size_of_val(&response) };
            finished(read(response.into_body()));
            sizes
        };
        self.facts(&mut call)
    }

    /// Makes HTTP calls on a runtime, for services that spawn tasks, and reads each body to its
    /// end.
    pub fn on_runtime<S, Req, B>(self, mut service: S, request: fn(u64) -> Req) -> Facts
    where
        S: Service<Req, Response = Response<B>>,
        B: Body,
    {
        let runtime = runtime();
        let mut call = |number| {
            let future = called(&mut service, request(number));
            let future_size = size_of_val(&future);
            runtime.block_on(async {
                let Ok(response) = future.await else { panic!("the handler responds") };
                let response_size = size_of_val(&response);
                read(response.into_body()).await;
                Sizes { future: future_size, response: response_size }
            })
        };
        self.facts(&mut call)
    }

    fn facts(self, call: &mut impl FnMut(u64) -> Sizes) -> Facts {
        for number in 0..self.first {
            call(number);
        }
        let (allocations, clock_reads) = (system::allocations(), system::clock_reads());
        let mut sizes = Sizes { future: 0, response: 0 };
        for number in self.first..self.first + self.counted {
            sizes = call(black_box(number));
        }
        Facts {
            allocations: system::allocations() - allocations,
            clock_reads: system::clock_reads() - clock_reads,
            future: sizes.future,
            response: sizes.response,
        }
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    future: usize,
    response: usize,
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// Polls a service until it is ready, so that it holds what it reserves.
pub fn reserved<S: Service<Req>, Req>(service: &mut S) {
    let ready = service.poll_ready(&mut context());
    assert!(matches!(ready, Poll::Ready(Ok(()))), "the service is ready at once");
}

/// Returns a context with a waker that is opaque to the compiler.
fn context() -> Context<'static> {
    Context::from_waker(black_box(Waker::noop()))
}

/// Polls the service ready and calls it.
fn called<S: Service<Req>, Req>(service: &mut S, request: Req) -> S::Future {
    reserved(service);
    service.call(request)
}

/// Polls a future by hand to its end, because a runtime's own instructions would be counted.
fn finished<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = context();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

async fn read<B: Body>(body: B) {
    let mut body = pin!(body);
    while let Some(frame) = frame(body.as_mut()).await {
        black_box(frame.is_ok());
    }
}

async fn frame<B: Body>(
    mut body: Pin<&mut B>,
) -> Option<Result<http_body::Frame<B::Data>, B::Error>> {
    std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await
}
