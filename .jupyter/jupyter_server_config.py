"""JupyterLab as `make lab` starts it: every kernel runs in the repository root, as the stages do."""

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager


class RootKernelManager(AsyncMappingKernelManager):
    """Starts kernels in the server's root folder, where Jupyter would take the notebook's own."""

    def cwd_for_path(self, path, **kwargs):
        return self.root_dir


class PlainNameManager(KernelSpecManager):
    """Calls the kernel as the notebooks do: its usual name, with "(ipykernel)", would change every .py that is saved."""

    def get_kernel_spec(self, kernel_name):
        spec = super().get_kernel_spec(kernel_name)
        if kernel_name == "python3":
            spec.display_name = "Python 3"
        return spec


c = get_config()  # noqa: F821 - Jupyter provides it
c.ServerApp.kernel_manager_class = RootKernelManager
c.ServerApp.kernel_spec_manager_class = PlainNameManager
