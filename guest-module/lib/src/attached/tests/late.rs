//! A channel that ends while its end is being taken.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use sivshm_abi::frame::Reason;
use sivshm_abi::grant::{Grant, GrantId, Kind};

use super::host::{LIMIT, job, start_over};
use crate::attached::Attached;
use crate::backend::{Awaited, Backend, Bell, Granted, Status};
use crate::mapping::Mapping;
use crate::{Error, Open};

/// An attachment whose first mapping waits for the test.
#[derive(Debug)]
struct Late {
    attached: Attached,
    first: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

impl Backend for Late {
    fn status(&self) -> Result<Status, Error> {
        self.attached.status()
    }

    fn list(&self) -> Result<(Status, Vec<Granted>), Error> {
        self.attached.list()
    }

    fn read(&self, to: &mut [u8]) -> Result<Option<usize>, Error> {
        self.attached.read(to)
    }

    fn write(&self, from: &[u8]) -> Result<usize, Error> {
        self.attached.write(from)
    }

    fn sleep(&self, awaited: Awaited) -> Result<(), Error> {
        self.attached.sleep(awaited)
    }

    fn wake(&self) {
        self.attached.wake();
    }

    fn map(&self, granted: &Granted) -> Result<Mapping, Error> {
        let first = self.first.lock().unwrap().take();
        if let Some((here, go_on)) = first {
            here.send(()).unwrap();
            go_on.recv().unwrap();
        }
        self.attached.map(granted)
    }

    fn ring(&self, grant: GrantId) -> Result<(), Error> {
        self.attached.ring(grant)
    }

    fn bell(&self, grant: &Grant) -> Result<Box<dyn Bell>, Error> {
        self.attached.bell(grant)
    }
}

#[test]
fn an_end_whose_pairing_is_over_when_it_is_mapped_waits_for_the_next() {
    let ((here, arrived), (go_on, released)) = (channel(), channel());
    let (mut host, session) = start_over(Kind::Region, move |attached| {
        let first = Mutex::new(Some((here, released)));
        Box::new(Late { attached, first })
    });
    let options = Open::new().peer("worker-1/reducer").timeout(LIMIT);
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| session.region_writer("job", &options));
        host.serve_until(|_| arrived.try_recv().is_ok());
        let lost = host.epochs[&job()];
        host.end(job(), Reason::OtherEnd);
        host.serve_until(|host| host.revoked.len() == 2);
        go_on.send(()).unwrap();
        host.serve_until(|_| opening.is_finished());
        let writer = opening.join().unwrap().unwrap();
        assert_ne!(writer.epoch(), lost);
        assert_eq!(writer.epoch(), host.epochs[&job()]);
    });
}
