//! Impostors that are not who they should be.

use rustls::AlertDescription::{self, CertificateRequired, CertificateUnknown};
use sivshm_handshake::RefusalCode;
use sivshm_handshake::wire::Told;

use crate::support::identity::Signer;
use crate::support::impostor::Impostor;
use crate::support::scene::Scene;
use crate::support::talk::End;

const CAMERA: &str = "spiffe://car.example/vm/camera/device";
const RADAR: &str = "spiffe://car.example/vm/radar/device";

/// An impostor that plays `vm` with this change is refused like this, before it got anything.
fn refused(
    vm: &str,
    change: impl FnOnce(&Scene, &mut Impostor<'_>),
    end: End,
    blame: &str,
    reason: &str,
) {
    let Some(scene) = Scene::without(&[vm]) else {
        return;
    };
    let mut impostor = scene.impostor(vm);
    change(&scene, &mut impostor);
    let outcome = impostor.play();
    assert_eq!(outcome.end, Some(end));
    assert!(outcome.talk.received.is_empty());
    scene.assert_refused(impostor.user, blame, reason);
    scene.assert_honest(vm);
}

/// The same, for a certificate that the trust domain's own CA signed.
fn certificate_refused(vm: &str, names: &[&str], days: (i64, i64), reason: &str) {
    let change = |scene: &Scene, impostor: &mut Impostor<'_>| {
        impostor.svid = Some(scene.signer().sign(names, days));
    };
    let end = End::Alert(CertificateUnknown);
    refused(vm, change, end, "peer", reason);
}

const fn told(code: RefusalCode) -> End {
    End::Told(Told::Code(code))
}

#[test]
fn no_certificate() {
    refused(
        "camera",
        |_, impostor| impostor.svid = None,
        End::Alert(CertificateRequired),
        "peer",
        "peer: it presents no certificate; issue an SVID for it",
    );
}

#[test]
fn certificate_of_another_ca() {
    refused(
        "camera",
        |_, impostor| impostor.svid = Some(Signer::stranger().sign(&[CAMERA], (-1, 1))),
        End::Alert(CertificateUnknown),
        "peer",
        "peer: its SVID does not lead to a root of the trust bundle (UnknownIssuer)",
    );
}

#[test]
fn certificate_of_another_ca_of_the_same_name() {
    refused(
        "camera",
        |scene, impostor| {
            let signer = Signer::of_same_name(&scene.ca_dir());
            impostor.svid = Some(signer.sign(&[CAMERA], (-1, 1)));
        },
        End::Alert(CertificateUnknown),
        "peer",
        "peer: its SVID does not lead to a root of the trust bundle (InvalidSignatureForPublicKey)",
    );
}

#[test]
fn expired_certificate() {
    let reason = "peer: its SVID, or an issuer's certificate, has expired; issue a new one";
    certificate_refused("camera", &[CAMERA], (-2, -1), reason);
}

#[test]
fn certificate_that_is_not_yet_valid() {
    let reason = "peer: its SVID, or an issuer's certificate, is not valid yet; check the clock";
    certificate_refused("camera", &[CAMERA], (1, 2), reason);
}

#[test]
fn service_svid_instead_of_a_device_process() {
    let service = "spiffe://car.example/vm/camera/svc/app";
    let reason = "peer: its SVID is that of service `app` in VM `camera`, not of a device process";
    certificate_refused("camera", &[service], (-1, 1), reason);
}

#[test]
fn two_uri_sans() {
    let reason = "peer: its certificate is no SVID: subjectAltName is not exactly one URI";
    certificate_refused("camera", &[CAMERA, CAMERA], (-1, 1), reason);
}

#[test]
fn svid_of_another_vm() {
    let Some(scene) = Scene::without(&["camera"]) else {
        return;
    };
    let mut impostor = scene.impostor("camera");
    impostor.svid = Some(scene.svid("beacon"));
    let outcome = impostor.play();
    assert_eq!(outcome.end, Some(told(RefusalCode::Uid)));
    assert!(outcome.talk.received.is_empty());
    let reason = format!(
        "peer: a process of uid {} presents the SVID of `beacon`, whose device process has uid {}",
        scene.user("camera").uid,
        scene.user("beacon").uid
    );
    scene.assert_refused(impostor.user, "peer", &reason);
    scene.assert_honest("camera");
}

#[test]
fn svid_of_a_vm_that_does_not_dial() {
    refused(
        "camera",
        |scene, impostor| impostor.svid = Some(scene.svid("radar")),
        told(RefusalCode::NoLink),
        "policy",
        "policy: no channel joins this VM and `radar`",
    );
}

#[test]
fn wrong_application_protocol() {
    refused(
        "camera",
        |_, impostor| impostor.alpn = b"sivshm-service/1",
        End::Alert(AlertDescription::NoApplicationProtocol),
        "peer",
        "peer: TLS failed: peer doesn't support any known protocol",
    );
}

#[test]
fn dialed_certificate_of_another_ca() {
    refused(
        "radar",
        |_, impostor| impostor.svid = Some(Signer::stranger().sign(&[RADAR], (-1, 1))),
        End::Alert(CertificateUnknown),
        "peer",
        "peer: its SVID does not lead to a root of the trust bundle (UnknownIssuer)",
    );
}

#[test]
fn dialed_certificate_that_has_expired() {
    let reason = "peer: its SVID, or an issuer's certificate, has expired; issue a new one";
    certificate_refused("radar", &[RADAR], (-2, -1), reason);
}

#[test]
fn dialed_service_svid() {
    let service = "spiffe://car.example/vm/radar/svc/app";
    let reason = "is that of service `app` in VM `radar`, not of the device process of VM `radar`";
    certificate_refused("radar", &[service], (-1, 1), reason);
}

#[test]
fn dialed_svid_of_another_vm() {
    refused(
        "radar",
        |scene, impostor| impostor.svid = Some(scene.svid("camera")),
        End::Alert(CertificateUnknown),
        "peer",
        "is that of the device process of VM `camera`, not of the device process of VM `radar`",
    );
}

#[test]
fn dialed_two_uri_sans() {
    let reason = "peer: its certificate is no SVID: subjectAltName is not exactly one URI";
    certificate_refused("radar", &[RADAR, CAMERA], (-1, 1), reason);
}
