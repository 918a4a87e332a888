"""Make the training job of an accepted plan."""

from fedllm.agent.folder import WorkFolder
from fedllm.agent.held_base import HeldBase
from fedllm.agent.job import Job, site_seed
from fedllm.agent.join import Membership
from fedllm.agent.memory import Memory
from fedllm.agent.residuals import residual_of
from fedllm.protocol.messages import Plan
from fedllm.protocol.terms import private_terms


def new_job(  # noqa: PLR0913, PLR0917 - what a job is made of
    plan: Plan, steps: int, member: Membership, base: HeldBase, folder: WorkFolder, memory: Memory
) -> Job:
    """Describe the training of a plan that this site accepted.

    Args:
        plan: an accepted plan.
        steps: that the answer promised.
        member: the site.
        base: the site's base model.
        folder: for the job's files.
        memory: knows which residual is in force.
    """
    run, site = plan.run or "", member.site
    return Job(
        base=base.folder,
        data=site.data,
        model=folder.model(run, plan.round),
        output=folder.update(run, plan.round),
        adapter=plan.adapter,
        adapter_seed=plan.seed,
        layout_sha256=plan.layout_sha256,
        frozen_sha256=plan.frozen_sha256,
        task=plan.task,
        local=plan.local,
        steps=steps,
        round=plan.round,
        rounds=plan.rounds,
        seed=site_seed(plan.seed, site.name),
        threads=site.threads,
        next_residual=folder.residual(run, plan.round),
        codec=plan.codec,
        residual=residual_of(folder, memory, run),
        privacy=private_terms(plan.privacy, site.name) if plan.privacy else None,
        home=member.home,
        max_left_out=site.policy.max_left_out,
    )
