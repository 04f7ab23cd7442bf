"""An upgrade of the simulated fleet as Azure puts it in JSON. Pure; must not know how anyone reads it."""

from datetime import datetime

from exporter.simulator.fleet import ApiError, Form, Image, ScaleSet, Upgrade


def to_json(scale_set: ScaleSet, upgrade: Upgrade) -> dict[str, object]:
    """Render an upgrade as an UpgradeOperationHistoricalStatusInfo; what is absent has no key."""
    form, end, rollback = scale_set.part.form, upgrade.end, upgrade.rollback
    properties = {
        "runningStatus": _present(
            {
                "code": upgrade.state.value,
                "startTime": _timestamp(upgrade.start, form),
                form.end_key: None if end is None else _timestamp(end, form),
            }
        ),
        "progress": {
            "successfulInstanceCount": upgrade.successful,
            "failedInstanceCount": upgrade.failed,
            "inProgressInstanceCount": upgrade.in_progress,
            "pendingInstanceCount": upgrade.pending,
        },
        "error": upgrade.error and _error_json(upgrade.error),
        "startedBy": upgrade.started_by,
        "targetImageReference": _image_json(upgrade.image),
        "rollbackInfo": rollback
        and _present(
            {
                "successfullyRolledbackInstanceCount": rollback.successful,
                "failedRolledbackInstanceCount": rollback.failed,
                "rollbackError": rollback.error and _error_json(rollback.error),
            }
        ),
    }
    return {
        "properties": _present(properties),
        "type": "Microsoft.Compute/virtualMachineScaleSets/rollingUpgrades",
        "location": scale_set.location,
    }


def _present(fields: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _timestamp(seconds: float, form: Form) -> str:
    text = datetime.fromtimestamp(seconds, form.zone).isoformat(timespec="microseconds")
    return text[:-6] + form.seventh_digit + text[-6:]


def _image_json(image: Image) -> dict[str, object]:
    return _present(
        {
            "publisher": image.publisher,
            "offer": image.offer,
            "sku": image.sku,
            "version": image.version,
            "exactVersion": image.exact_version,
            "id": image.id,
            "sharedGalleryImageId": image.shared_gallery_image_id,
            "communityGalleryImageId": image.community_gallery_image_id,
        }
    )


def _error_json(error: ApiError) -> dict[str, object]:
    inner = _present({"exceptiontype": error.exception_type, "errordetail": error.error_detail})
    return _present(
        {
            "code": error.code,
            "message": error.message,
            "target": error.target,
            "details": [_error_json(detail) for detail in error.details] or None,
            "innererror": inner or None,
        }
    )
