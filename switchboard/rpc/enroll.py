"""The enrolment port: translate, delegate, decide nothing."""

from switchboard_rpc.v1 import enroll_pb2 as pb
from switchboard_rpc.v1 import enroll_pb2_grpc as pb_grpc

from switchboard.clock import Clock
from switchboard.domain.machine import Machine
from switchboard.rpc.access import Context
from switchboard.rpc.ca import Authority
from switchboard.rpc.outward import certificate_to
from switchboard.services.identity import Identity


class EnrollServicer(pb_grpc.EnrollServiceServicer):
    def __init__(self, identity: Identity, authority: Authority, clock: Clock) -> None:
        self._identity = identity
        self._authority = authority
        self._clock = clock

    async def Enroll(self, request: pb.EnrollRequest, context: Context) -> pb.EnrollResponse:
        machine, pem = await self._identity.enrol(request.token, request.csr_pem, request.name, request.version)
        return pb.EnrollResponse(machine_id=machine.id, certificate=self._certificate(machine, pem))

    async def Renew(self, request: pb.EnrollServiceRenewRequest, context: Context) -> pb.EnrollServiceRenewResponse:
        presented = self._authority.presented_expired(request.expired_pem, request.csr_pem, request.signature)
        machine, pem = await self._identity.renew(presented, request.csr_pem)
        return pb.EnrollServiceRenewResponse(certificate=self._certificate(machine, pem))

    def _certificate(self, machine: Machine, pem: str) -> pb.Certificate:
        left = machine.certificate_until - self._clock.now()
        return certificate_to(pem, self._authority.ca_pem, left, machine.generation)
