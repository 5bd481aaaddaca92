"""One message: what became of it, and every report that said so."""

from fastapi import APIRouter, Depends

from app.errors import MessageNotFoundError
from app.guards import reader
from app.query.requests import MessageId, ReadConnection, problems, refuse_unknown_parameters
from app.query.schemas import Message, Report, Reports
from app.store import read

router = APIRouter(
    prefix="/v1/messages",
    tags=["status"],
    dependencies=[Depends(reader), Depends(refuse_unknown_parameters)],
    responses=problems(401, 403, 404, 414, 422, 503),
)


@router.get("/{messageid}")
def show_message(messageid: MessageId, connection: ReadConnection) -> Message:
    """One message with the status of each recipient."""
    deliveries = read.deliveries_of(connection, messageid)
    if not deliveries:
        raise MessageNotFoundError(messageid)
    return Message.of(deliveries)


@router.get("/{messageid}/reports")
def list_reports(messageid: MessageId, connection: ReadConnection) -> Reports:
    """Every distinct report received about a message, oldest first."""
    reports = read.reports_of(connection, messageid)
    if not reports and not read.deliveries_of(connection, messageid):
        raise MessageNotFoundError(messageid)
    return Reports(reports=[Report.of(report) for report in reports])
